// TensorFlow's C interface with owners for what it hands out.
#ifndef TFCOMPRESS_TF_TENSORFLOW_H_
#define TFCOMPRESS_TF_TENSORFLOW_H_

#include <cstring>
#include <memory>
#include <string>

#include "c_api.h"

class Status {
 public:
  Status() : status_(TF_NewStatus()) {}
  ~Status() { TF_DeleteStatus(status_); }
  Status(const Status&) = delete;
  Status& operator=(const Status&) = delete;

  TF_Status* get() const { return status_; }
  bool ok() const { return TF_GetCode(status_) == TF_OK; }
  void Set(TF_Code code, const std::string& message) { TF_SetStatus(status_, code, message.c_str()); }

 private:
  TF_Status* status_;
};

using Tensor = std::unique_ptr<TF_Tensor, void (*)(TF_Tensor*)>;

inline int64_t Count(const Tensor& tensor) { return TF_TensorElementCount(tensor.get()); }

template <typename Value>
const Value* Data(const Tensor& tensor) {
  return static_cast<const Value*>(TF_TensorData(tensor.get()));
}

// Whether two tensors hold the same. One that is kept alive needs no look inside if the other is in the same
// place: TensorFlow changes a variable in place only while nobody else holds its memory, and otherwise moves it.
template <typename Value>
bool Same(const Tensor& kept, const Tensor& tensor) {
  const auto count = static_cast<size_t>(Count(tensor));
  if (static_cast<size_t>(Count(kept)) != count) return false;
  const Value *a = Data<Value>(kept), *b = Data<Value>(tensor);
  return count == 0 || a == b || std::memcmp(a, b, count * sizeof(Value)) == 0;
}

#endif  // TFCOMPRESS_TF_TENSORFLOW_H_
