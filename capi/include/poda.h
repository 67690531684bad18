/* Poda: run and prune neural networks. Made by cbindgen from capi/src; change it there.
 *
 * What holds for every function:
 *   - A function that may fail gives a PodaStatus, and where `error` is not NULL, a PodaError to be released with its message.
 *     Outputs are written on success alone.
 *   - Releasing NULL does nothing. Other pointers must be what Poda gave, not yet released, or the caller's own memory.
 *   - Models, and nothing else but a flag to cancel, may be used by several threads at once. There is no global state, and no
 *     signal handler.
 *   - Names are UTF-8. Strings that Poda gives live as long as what they were asked of.
 *   - Functions are added, never changed or taken away: PODA_ABI counts the additions, poda_abi() says how many the library has.
 */

#ifndef PODA_H
#define PODA_H

#include <stddef.h>
#include <stdint.h>

/*
 Number of the last addition to this header; `poda_abi` says that of the library.
 */
#define PODA_ABI 1

/*
 How a call went.
 */
typedef enum {
    /*
     As it should.
     */
    PODA_STATUS_OK = 0,
    /*
     A pointer is NULL that must not be, text is not UTF-8, or a number is out of range.
     */
    PODA_STATUS_ARGUMENT = 1,
    /*
     A file cannot be read or written.
     */
    PODA_STATUS_IO = 2,
    /*
     A file or bytes are no valid model.
     */
    PODA_STATUS_MODEL = 3,
    /*
     The model needs an operator that Poda has not, which the message names.
     */
    PODA_STATUS_UNSUPPORTED = 4,
    /*
     Names, types or shapes of inputs do not fit the model.
     */
    PODA_STATUS_INPUT = 5,
    /*
     The caller's buffers for outputs do not fit: names, types, shapes or bytes.
     */
    PODA_STATUS_OUTPUT = 6,
    /*
     The run was cancelled, or its time was over.
     */
    PODA_STATUS_STOPPED = 7,
    /*
     There is not enough memory, or less than the limit that was set.
     */
    PODA_STATUS_MEMORY = 8,
    /*
     The model cannot be pruned as asked.
     */
    PODA_STATUS_PRUNING = 9,
    /*
     A defect of Poda's; please report it.
     */
    PODA_STATUS_INTERNAL = 10,
} PodaStatus;

/*
 Element types.
 */
typedef enum {
    /*
     The model does not say.
     */
    PODA_TYPE_UNKNOWN = 0,
    /*
     32-bit floats.
     */
    PODA_TYPE_F32 = 1,
    /*
     16-bit floats of IEEE 754.
     */
    PODA_TYPE_F16 = 2,
    /*
     16-bit floats with the range of 32-bit ones.
     */
    PODA_TYPE_BF16 = 3,
    /*
     64-bit floats.
     */
    PODA_TYPE_F64 = 4,
    /*
     Signed integers of 8 bits.
     */
    PODA_TYPE_I8 = 5,
    /*
     Signed integers of 16 bits.
     */
    PODA_TYPE_I16 = 6,
    /*
     Signed integers of 32 bits.
     */
    PODA_TYPE_I32 = 7,
    /*
     Signed integers of 64 bits.
     */
    PODA_TYPE_I64 = 8,
    /*
     Unsigned integers of 8 bits.
     */
    PODA_TYPE_U8 = 9,
    /*
     Unsigned integers of 16 bits.
     */
    PODA_TYPE_U16 = 10,
    /*
     Unsigned integers of 32 bits.
     */
    PODA_TYPE_U32 = 11,
    /*
     Unsigned integers of 64 bits.
     */
    PODA_TYPE_U64 = 12,
    /*
     Bytes that are 0 or not.
     */
    PODA_TYPE_BOOL = 13,
} PodaType;

/*
 Whether a port is an input or an output.
 */
typedef enum {
    /*
     What the model takes.
     */
    PODA_SIDE_INPUT = 0,
    /*
     What the model gives.
     */
    PODA_SIDE_OUTPUT = 1,
} PodaSide;

/*
 What failed, and why.
 */
typedef struct PodaError PodaError;

/*
 A model, ready to run, from any number of threads at once.
 */
typedef struct PodaModel PodaModel;

/*
 How a model is to be loaded and run. Used by one thread at a time.
 */
typedef struct PodaOptions PodaOptions;

/*
 Outputs of a run, in memory of Poda's.
 */
typedef struct PodaOutputs PodaOutputs;

/*
 What ends a run early. Other threads may cancel runs that are under way with it.
 */
typedef struct PodaRunOptions PodaRunOptions;

/*
 An array of the caller's, or one of Poda's that the caller looks at: row-major, native-endian, `data` aligned for its
 elements. `type` is a PodaType.
 */
typedef struct {
    /*
     The name of the input or output that it is.
     */
    const char *name;
    /*
     The sizes, `rank` of them; may be NULL where `rank` is 0.
     */
    const size_t *shape;
    /*
     Number of dimensions.
     */
    size_t rank;
    /*
     The elements; may be NULL where there are none.
     */
    void *data;
    /*
     Bytes of the elements.
     */
    size_t bytes;
    /*
     Their type, a PodaType.
     */
    uint32_t dtype;
} PodaTensor;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Number of the last addition that the library has. A program that was compiled with `PODA_ABI` runs with any library that
 says as much or more.
 */
uint32_t poda_abi(void);

/*
 The version of the library, such as "0.1.0".
 */
const char *poda_version(void);

/*
 The status that came with an error; PODA_STATUS_OK of NULL.

 Asked of the caller:
 `error` is NULL or an error that was not released.
 */
PodaStatus poda_error_status(const PodaError *error);

/*
 What failed and why, in one line; "" of NULL. The text lives as long as the error.

 Asked of the caller:
 As poda_error_status.
 */
const char *poda_error_message(const PodaError *error);

/*
 Lets an error go.

 Asked of the caller:
 As poda_error_status.
 */
void poda_error_release(PodaError *error);

/*
 Opens an ONNX file or an artifact of Poda's and makes it ready to run. `options` may be NULL. Release the model with
 poda_model_release.

 Asked of the caller:
 `path` is a text that ends in NUL; `options` is NULL or not yet released; `model` and, unless NULL, `error` may be written.
 */
PodaStatus poda_model_open(const char *path,
                           const PodaOptions *options,
                           PodaModel **model,
                           PodaError **error);

/*
 As poda_model_open, of the content of such a file, which is copied.

 Asked of the caller:
 As poda_model_open; `bytes` points to `length` bytes.
 */
PodaStatus poda_model_open_bytes(const uint8_t *bytes,
                                 size_t length,
                                 const PodaOptions *options,
                                 PodaModel **model,
                                 PodaError **error);

/*
 Lets a model go, which no thread may use any more.

 Asked of the caller:
 `model` is NULL or a model that was not released.
 */
void poda_model_release(PodaModel *model);

/*
 Number of threads that a run uses; 0 of NULL.

 Asked of the caller:
 As poda_model_release.
 */
size_t poda_model_threads(const PodaModel *model);

/*
 Number of inputs or outputs; `side` is a PodaSide.

 Asked of the caller:
 As poda_model_release.
 */
size_t poda_model_port_count(const PodaModel *model, uint32_t side);

/*
 The name of an input or output; NULL where there is none. It lives as long as the model.

 Asked of the caller:
 As poda_model_release.
 */
const char *poda_model_port_name(const PodaModel *model, uint32_t side, size_t index);

/*
 The element type of an input or output; PODA_TYPE_UNKNOWN where the model does not say.

 Asked of the caller:
 As poda_model_release.
 */
PodaType poda_model_port_type(const PodaModel *model, uint32_t side, size_t index);

/*
 Number of dimensions of an input or output; -1 where the model does not say.

 Asked of the caller:
 As poda_model_release.
 */
int64_t poda_model_port_rank(const PodaModel *model, uint32_t side, size_t index);

/*
 The size of a dimension; -1 where it is open.

 Asked of the caller:
 As poda_model_release.
 */
int64_t poda_model_port_size(const PodaModel *model, uint32_t side, size_t index, size_t axis);

/*
 The name of an open dimension, "" where it has none; NULL for one that is not open. It lives as long as the model.

 Asked of the caller:
 As poda_model_release.
 */
const char *poda_model_port_axis(const PodaModel *model,
                                 uint32_t side,
                                 size_t index,
                                 size_t axis);

/*
 Plans, packs and tunes for inputs of these names and shapes, so that the first run with them is as fast as the next. Types
 and data of the tensors are not looked at.

 Asked of the caller:
 `model` is NULL or not yet released; `inputs` points to `count` tensors whose names and shapes are what they say; `error` is NULL or may be
 written.
 */
PodaStatus poda_model_warm(const PodaModel *model,
                           const PodaTensor *inputs,
                           size_t count,
                           PodaError **error);

/*
 Options as they are by default: threads as many as this container may use, the fastest kernels, timed on this CPU, the
 file mapped. Release them with poda_options_release.
 */
PodaOptions *poda_options_new(void);

/*
 Threads that a run uses; 0 for as many as there are.

 Asked of the caller:
 `options` is NULL or options that were not released.
 */
void poda_options_set_threads(PodaOptions *options, size_t threads);

/*
 Whether the fastest kernel among the smallest is taken (not 0), or the fastest of all (0).

 Asked of the caller:
 As poda_options_set_threads.
 */
void poda_options_set_prefer_memory(PodaOptions *options, uint32_t prefer_memory);

/*
 Whether kernels are timed on this CPU (not 0), or chosen by a cost model (0).

 Asked of the caller:
 As poda_options_set_threads.
 */
void poda_options_set_tune(PodaOptions *options, uint32_t tune);

/*
 Whether the file is copied into memory (not 0), which keeps it from changes of the file, or mapped (0).

 Asked of the caller:
 As poda_options_set_threads.
 */
void poda_options_set_read(PodaOptions *options, uint32_t read);

/*
 The most bytes that the activations of a run may take; 0 for what the process may have.

 Asked of the caller:
 As poda_options_set_threads.
 */
void poda_options_set_memory_limit(PodaOptions *options, size_t bytes);

/*
 Lets options go; models that were opened with them stay.

 Asked of the caller:
 As poda_options_set_threads.
 */
void poda_options_release(PodaOptions *options);

/*
 Prunes the model in one file into another, .onnx or .safetensors, as a recipe in TOML says, such as "sparsity = 0.9". Recipes
 that need data (max_drop) are refused.

 Asked of the caller:
 `input`, `output` and `recipe` are texts that end in NUL; `error` is NULL or may be written.
 */
PodaStatus poda_prune(const char *input,
                      const char *output,
                      const char *recipe,
                      PodaError **error);

/*
 Options that end no run early. Release them with poda_run_options_release, when no run uses them any more.
 */
PodaRunOptions *poda_run_options_new(void);

/*
 Milliseconds after which runs that begin from now on end, with PODA_STATUS_STOPPED; 0 for none.

 Asked of the caller:
 `options` is NULL or options that were not released.
 */
void poda_run_options_set_timeout_ms(PodaRunOptions *options, uint64_t milliseconds);

/*
 Ends every run with these options, under way or yet to come, with PODA_STATUS_STOPPED. Any thread may say so.

 Asked of the caller:
 As poda_run_options_set_timeout_ms.
 */
void poda_run_options_cancel(const PodaRunOptions *options);

/*
 Takes poda_run_options_cancel back, for runs yet to come.

 Asked of the caller:
 As poda_run_options_set_timeout_ms.
 */
void poda_run_options_reset(const PodaRunOptions *options);

/*
 Lets run options go.

 Asked of the caller:
 As poda_run_options_set_timeout_ms.
 */
void poda_run_options_release(PodaRunOptions *options);

/*
 Runs a model on the caller's arrays and copies its outputs into the caller's buffers, one for each output of the model, of its
 type and shape. Where anything fails no buffer is touched. `options` may be NULL.

 Asked of the caller:
 `model` and `options` are NULL or not yet released. `inputs` and `outputs` point to as many tensors as the counts say, whose
 pointers point to what they say; nobody changes inputs meanwhile, or looks at the outputs' data. `error` is NULL or may be
 written.
 */
PodaStatus poda_run(const PodaModel *model,
                    const PodaTensor *inputs,
                    size_t input_count,
                    const PodaTensor *outputs,
                    size_t output_count,
                    const PodaRunOptions *options,
                    PodaError **error);

/*
 As poda_run, with outputs in memory of Poda's, for shapes that are not known before. Release them with
 poda_outputs_release.

 Asked of the caller:
 As poda_run; `outputs` may be written.
 */
PodaStatus poda_run_alloc(const PodaModel *model,
                          const PodaTensor *inputs,
                          size_t input_count,
                          const PodaRunOptions *options,
                          PodaOutputs **outputs,
                          PodaError **error);

/*
 Number of outputs; 0 of NULL.

 Asked of the caller:
 `outputs` is NULL or not yet released.
 */
size_t poda_outputs_count(const PodaOutputs *outputs);

/*
 Shows an output, in the order of the model; what `tensor` then points to lives as long as the outputs, and is not to be
 written.

 Asked of the caller:
 `outputs` is NULL or not yet released; `tensor` may be written, and `error`, unless it is NULL.
 */
PodaStatus poda_outputs_get(const PodaOutputs *outputs,
                            size_t index,
                            PodaTensor *tensor,
                            PodaError **error);

/*
 Lets outputs go.

 Asked of the caller:
 `outputs` is NULL or not yet released.
 */
void poda_outputs_release(PodaOutputs *outputs);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PODA_H */
