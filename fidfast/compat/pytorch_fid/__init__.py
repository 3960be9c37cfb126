"""pytorch-fid 0.3.0 by its own names: ``pytorch_fid`` → ``fidfast.compat.pytorch_fid``, in imports and in commands.

The same files are read, the same lines printed and the same number reported (preset "pytorch-fid"). What its users
suffer from is not kept: an empty folder is an error that says so, images may differ in size, the network is never in
training mode, no scipy is needed, and a statistics file that another preprocessing made is refused.
"""

__version__ = "0.3.0"
