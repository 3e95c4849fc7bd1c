"""The decoders of the paper's policies, as sizes of ours.

From their config.json. Qwen's biases of query, key and value are left out:
a ten-thousandth of its weights.
"""

from dreamgym_jax.models import transformer

_LLAMA = dict(
    V=128_256, K=8, d=128, rope_theta=500_000.0, dtype='bfloat16')
MODELS = {
    'llama-3.2-3b': transformer.ModelConfig(
        D=3072, N=28, H=24, F=8192, tied=True, **_LLAMA),
    'llama-3.1-8b': transformer.ModelConfig(
        D=4096, N=32, H=32, F=14_336, tied=False, **_LLAMA),
    'qwen2.5-7b': transformer.ModelConfig(
        V=152_064, D=3584, N=28, H=28, K=4, d=128, F=18_944, tied=False,
        rope_theta=1e6, norm_eps=1e-6, dtype='bfloat16'),
}
