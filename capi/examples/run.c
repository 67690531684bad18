/* Runs a model on ones, and prints what it takes and the first numbers that it gives.
 *
 *     cc run.c -lpoda && ./a.out MODEL
 *
 * Open dimensions are taken as 1, and all inputs must be floats. */

#include <stdio.h>
#include <stdlib.h>

#include "poda.h"

static int fail(PodaError *error, const char *what) {
    fprintf(stderr, "%s: %s (status %d)\n", what, poda_error_message(error), (int)poda_error_status(error));
    poda_error_release(error);
    return 1;
}

/* A tensor of ones for an input of the model; its data and shape are to be freed. */
static PodaTensor ones(const PodaModel *model, size_t index) {
    size_t rank = (size_t)poda_model_port_rank(model, PODA_SIDE_INPUT, index), elements = 1;
    size_t *shape = malloc((rank + 1) * sizeof *shape);
    for (size_t axis = 0; axis < rank; axis++) {
        int64_t size = poda_model_port_size(model, PODA_SIDE_INPUT, index, axis);
        shape[axis] = size < 0 ? 1 : (size_t)size;
        elements *= shape[axis];
    }
    float *data = malloc((elements + 1) * sizeof *data);
    for (size_t i = 0; i < elements; i++) data[i] = 1;
    PodaTensor tensor = {poda_model_port_name(model, PODA_SIDE_INPUT, index), shape, rank, data,
                         elements * sizeof *data, PODA_TYPE_F32};
    return tensor;
}

int main(int count, char **arguments) {
    if (count < 2 || poda_abi() < PODA_ABI) {
        fprintf(stderr, "MODEL, and a library as new as its header\n");
        return 2;
    }
    PodaOptions *options = poda_options_new();
    poda_options_set_threads(options, 1);
    poda_options_set_tune(options, 0);
    PodaModel *model = NULL;
    PodaError *error = NULL;
    PodaStatus status = poda_model_open(arguments[1], options, &model, &error);
    poda_options_release(options);
    if (status != PODA_STATUS_OK) return fail(error, arguments[1]);

    size_t inputs = poda_model_port_count(model, PODA_SIDE_INPUT);
    PodaTensor *feeds = calloc(inputs, sizeof *feeds);
    for (size_t i = 0; i < inputs; i++) {
        feeds[i] = ones(model, i);
        printf("input %s, %zu dimensions\n", feeds[i].name, feeds[i].rank);
    }
    /* The first run says how large the outputs are; from then on they go to buffers of ours. */
    PodaOutputs *outputs = NULL;
    status = poda_run_alloc(model, feeds, inputs, NULL, &outputs, &error);
    if (status != PODA_STATUS_OK) return fail(error, "run");
    size_t results = poda_outputs_count(outputs);
    PodaTensor *buffers = calloc(results, sizeof *buffers);
    for (size_t i = 0; i < results; i++) {
        poda_outputs_get(outputs, i, &buffers[i], NULL);
        buffers[i].data = malloc(buffers[i].bytes + 1);
    }
    for (int again = 0; again < 3; again++) {
        status = poda_run(model, feeds, inputs, buffers, results, NULL, &error);
        if (status != PODA_STATUS_OK) return fail(error, "run");
    }
    for (size_t i = 0; i < results; i++) {
        printf("output %s:", buffers[i].name);
        size_t elements = buffers[i].dtype == PODA_TYPE_F32 ? buffers[i].bytes / sizeof(float) : 0;
        for (size_t at = 0; at < elements && at < 4; at++) printf(" %.6g", ((float *)buffers[i].data)[at]);
        printf("\n");
        free(buffers[i].data);
    }
    /* What does not fit is refused, with the buffers as they were. */
    feeds[0].bytes -= 1;
    if (poda_run(model, feeds, inputs, buffers, 0, NULL, &error) == PODA_STATUS_OK) return 3;
    printf("refused: %s\n", poda_error_message(error));
    poda_error_release(error);

    for (size_t i = 0; i < inputs; i++) {
        free(feeds[i].data);
        free((void *)feeds[i].shape);
    }
    free(feeds);
    free(buffers);
    poda_outputs_release(outputs);
    poda_model_release(model);
    return 0;
}
