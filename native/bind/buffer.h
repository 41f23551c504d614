// Python's buffers, as the native core reads them.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

namespace legato {

// Any object with a C-contiguous buffer, held for the time of a call.
class Bytes {
 public:
  Bytes(const char* name, nanobind::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_SIMPLE) != 0) {
      PyErr_Clear();
      throw std::invalid_argument(std::string(name) + ": not a C-contiguous buffer");
    }
  }
  Bytes(Bytes&& other) noexcept : buffer_(other.buffer_) { other.buffer_.obj = nullptr; }
  ~Bytes() { PyBuffer_Release(&buffer_); }
  const uint8_t* data() const { return static_cast<const uint8_t*>(buffer_.buf); }
  size_t size() const { return static_cast<size_t>(buffer_.len); }

  // Its whole items, as they lie there.
  template <class T>
  std::span<const T> items() const {
    return {reinterpret_cast<const T*>(data()), size() / sizeof(T)};
  }

 private:
  Py_buffer buffer_{};
};

}  // namespace legato
