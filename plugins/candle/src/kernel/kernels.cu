// All kernels as one module for CUDA: `cuda/ptx.sh` makes kernels.ptx of it.
#include "source/all.h"
#include "source/flash_cuda.h"
