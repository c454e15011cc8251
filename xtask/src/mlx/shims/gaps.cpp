// What mlx-rs calls and mlx-c or the system has on Apple's machines only.

#include <cstdint>
#include <ctime>

#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/array.h"

namespace {

template <typename T>
int item(T* result, const mlx_array array) {
  try {
    *result = mlx_array_get_(array).item<T>();
  } catch (std::exception& e) {
    _mlx_error(__FILE__, __LINE__, "%s", e.what());
    return 1;
  }
  return 0;
}

template <typename T>
const T* data(const mlx_array array) {
  try {
    return mlx_array_get_(array).data<T>();
  } catch (std::exception& e) {
    _mlx_error(__FILE__, __LINE__, "%s", e.what());
    return nullptr;
  }
}

} // namespace

// Both types are 16 bits in memory; they cross by address only.

extern "C" int mlx_array_item_float16(mlx::core::float16_t* result, const mlx_array array) {
  return item(result, array);
}

extern "C" int mlx_array_item_bfloat16(mlx::core::bfloat16_t* result, const mlx_array array) {
  return item(result, array);
}

extern "C" const mlx::core::float16_t* mlx_array_data_float16(const mlx_array array) {
  return data<mlx::core::float16_t>(array);
}

extern "C" const mlx::core::bfloat16_t* mlx_array_data_bfloat16(const mlx_array array) {
  return data<mlx::core::bfloat16_t>(array);
}

// mlx-rs seeds its default random state with it.
extern "C" uint64_t mach_approximate_time() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}
