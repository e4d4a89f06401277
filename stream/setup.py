"""The part in C, which pyproject.toml cannot declare yet. Without a compiler, the package is installed without it."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "meterproof_stream._place_table",
            sources=["meterproof_stream/_place_table.c"],
            extra_compile_args=["-O3"],
            optional=True,
        )
    ]
)
