## tests of kernels
