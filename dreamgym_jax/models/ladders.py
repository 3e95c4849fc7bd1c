"""The shapes that samplers compile: ladders of buckets, by name.

A call is padded up to the next rung of each ladder: more rungs compile longer,
fewer pad more. A large model takes long to compile and is bound by its
weights, so that padding costs it little.
"""

ROW_BUCKETS = (8, 24, 48, 80, 120, 160, 240, 320)
TOKEN_BUCKETS = (16, 32, 48, 64, 128)
COLUMN_BUCKETS = (0, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
# Arguments of sampling.Sampler.
LADDERS = {
    'fine': {},
    'coarse': dict(row_buckets=(), token_buckets=(32, 128),
                   column_buckets=(256,)),
}
