"""``python -m dither``, and so ``accelerate launch -m dither``: the same as the ``dither`` command."""

from .cli import main

if __name__ == "__main__":
    main()
