// What the compiler is given.
#include "all.h"
