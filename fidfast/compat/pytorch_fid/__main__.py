"""``python -m fidfast.compat.pytorch_fid PATH PATH``: the command of pytorch-fid."""

from fidfast.compat.pytorch_fid.fid_score import main

if __name__ == "__main__":
    main()
