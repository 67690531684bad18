/* Poda for C++17: the C API of poda.h with handles that release themselves and errors that are thrown. */
#ifndef PODA_HPP
#define PODA_HPP

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "poda.h"

namespace poda {

/* What a call failed with. */
class Error : public std::runtime_error {
  public:
    Error(PodaStatus status, const std::string &message) : std::runtime_error(message), status_(status) {}
    PodaStatus status() const noexcept { return status_; }

  private:
    PodaStatus status_;
};

namespace detail {
/* Throws unless a call went well; takes the error over, which is looked at only once the call that sets it is over. */
inline void check(PodaStatus status, PodaError *const &error) {
    if (status == PODA_STATUS_OK) return;
    std::unique_ptr<PodaError, decltype(&poda_error_release)> held(error, &poda_error_release);
    throw Error(status, poda_error_message(error));
}

/* PodaType of a C++ type. */
template <typename T> struct TypeOf;
template <> struct TypeOf<float> { static constexpr uint32_t value = PODA_TYPE_F32; };
template <> struct TypeOf<double> { static constexpr uint32_t value = PODA_TYPE_F64; };
template <> struct TypeOf<int8_t> { static constexpr uint32_t value = PODA_TYPE_I8; };
template <> struct TypeOf<int16_t> { static constexpr uint32_t value = PODA_TYPE_I16; };
template <> struct TypeOf<int32_t> { static constexpr uint32_t value = PODA_TYPE_I32; };
template <> struct TypeOf<int64_t> { static constexpr uint32_t value = PODA_TYPE_I64; };
template <> struct TypeOf<uint8_t> { static constexpr uint32_t value = PODA_TYPE_U8; };
template <> struct TypeOf<uint16_t> { static constexpr uint32_t value = PODA_TYPE_U16; };
template <> struct TypeOf<uint32_t> { static constexpr uint32_t value = PODA_TYPE_U32; };
template <> struct TypeOf<uint64_t> { static constexpr uint32_t value = PODA_TYPE_U64; };
template <> struct TypeOf<bool> { static constexpr uint32_t value = PODA_TYPE_BOOL; };
} // namespace detail

/* A named array of the caller's, which must live as long as this does. */
class Tensor {
  public:
    template <typename T>
    Tensor(std::string name, std::vector<std::size_t> shape, T *data, std::size_t elements)
        : name_(std::move(name)), shape_(std::move(shape)), data_(const_cast<std::remove_const_t<T> *>(data)),
          bytes_(elements * sizeof(T)), dtype_(detail::TypeOf<std::remove_const_t<T>>::value) {}

    PodaTensor raw() const { return {name_.c_str(), shape_.data(), shape_.size(), data_, bytes_, dtype_}; }

  private:
    std::string name_;
    std::vector<std::size_t> shape_;
    void *data_;
    std::size_t bytes_;
    uint32_t dtype_;
};

/* The outputs of a run. */
class Outputs {
  public:
    explicit Outputs(PodaOutputs *outputs) : handle_(outputs, &poda_outputs_release) {}

    std::size_t size() const { return poda_outputs_count(handle_.get()); }

    /* An output by its place; it lives as long as these outputs. */
    PodaTensor operator[](std::size_t index) const {
        PodaTensor tensor{};
        PodaError *error = nullptr;
        detail::check(poda_outputs_get(handle_.get(), index, &tensor, &error), error);
        return tensor;
    }

    /* The elements of an output. */
    template <typename T> std::vector<T> values(std::size_t index) const {
        PodaTensor tensor = (*this)[index];
        if (tensor.dtype != detail::TypeOf<T>::value) {
            throw Error(PODA_STATUS_OUTPUT, std::string(tensor.name) + " is of another type");
        }
        const T *start = static_cast<const T *>(tensor.data);
        return std::vector<T>(start, start + tensor.bytes / sizeof(T));
    }

  private:
    std::unique_ptr<PodaOutputs, decltype(&poda_outputs_release)> handle_;
};

/* A model, ready to run, from any number of threads at once. */
class Model {
  public:
    /* Of a file; `threads` of 0 are as many as there are. */
    explicit Model(const std::string &path, std::size_t threads = 0) : handle_(nullptr, &poda_model_release) {
        std::unique_ptr<PodaOptions, decltype(&poda_options_release)> options(poda_options_new(),
                                                                              &poda_options_release);
        poda_options_set_threads(options.get(), threads);
        PodaModel *model = nullptr;
        PodaError *error = nullptr;
        detail::check(poda_model_open(path.c_str(), options.get(), &model, &error), error);
        handle_.reset(model);
    }

    Outputs run(const std::vector<Tensor> &inputs, const PodaRunOptions *options = nullptr) const {
        std::vector<PodaTensor> raw = all(inputs);
        PodaOutputs *outputs = nullptr;
        PodaError *error = nullptr;
        detail::check(poda_run_alloc(handle_.get(), raw.data(), raw.size(), options, &outputs, &error), error);
        return Outputs(outputs);
    }

    /* Into buffers of the caller's, which stay as they are where anything fails. */
    void run_into(const std::vector<Tensor> &inputs, const std::vector<Tensor> &outputs,
                  const PodaRunOptions *options = nullptr) const {
        std::vector<PodaTensor> in = all(inputs), out = all(outputs);
        PodaError *error = nullptr;
        detail::check(
            poda_run(handle_.get(), in.data(), in.size(), out.data(), out.size(), options, &error), error);
    }

    const PodaModel *get() const noexcept { return handle_.get(); }

  private:
    static std::vector<PodaTensor> all(const std::vector<Tensor> &tensors) {
        std::vector<PodaTensor> raw;
        for (const Tensor &tensor : tensors) raw.push_back(tensor.raw());
        return raw;
    }

    std::unique_ptr<PodaModel, decltype(&poda_model_release)> handle_;
};

} // namespace poda

#endif
