"""The parts in C, which pyproject.toml cannot declare yet. Without a compiler, the package goes without them."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            f"meterproof_schemas.{name}",
            sources=[f"meterproof_schemas/{name}.c"],
            extra_compile_args=["-O3"],
            optional=True,
        )
        for name in ("_edwards25519", "_identity_table", "_plain_lines", "_usual_batch")
    ]
)
