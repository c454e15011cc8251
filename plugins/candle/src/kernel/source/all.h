// All kernels, for a compiler that makes one module of them.
#pragma once
#include "activation.h"
#include "attention.h"
#include "elementwise.h"
#include "index.h"
#include "loss.h"
#include "norm.h"
#include "optim.h"
#include "quant.h"
#include "random.h"
#include "reduce.h"
#include "rope.h"
#include "softmax.h"
