// Runs a model of one float input x [1, 4] and one float output, and prints the numbers that it gives.
//
//	CGO_CFLAGS=-I../include CGO_LDFLAGS="-L../../target/release -lpoda_capi" go run run.go MODEL
package main

/*
#include <stdlib.h>
#include "poda.h"
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"
)

func check(status C.PodaStatus, failed *C.PodaError) {
	if status != C.PODA_STATUS_OK {
		fmt.Fprintln(os.Stderr, C.GoString(C.poda_error_message(failed)))
		C.poda_error_release(failed)
		os.Exit(1)
	}
}

func main() {
	path, name := C.CString(os.Args[1]), C.CString("x")
	defer C.free(unsafe.Pointer(path))
	defer C.free(unsafe.Pointer(name))
	var model *C.PodaModel
	var failed *C.PodaError
	check(C.poda_model_open(path, nil, &model, &failed), failed)
	defer C.poda_model_release(model)

	x, shape := []float32{1, 1, 1, 1}, []C.size_t{1, 4}
	// What C is to see of Go's memory stays where it is meanwhile.
	var pinned runtime.Pinner
	defer pinned.Unpin()
	pinned.Pin(&x[0])
	pinned.Pin(&shape[0])
	input := C.PodaTensor{name: name, shape: &shape[0], rank: 2, data: unsafe.Pointer(&x[0]), bytes: 16, dtype: C.PODA_TYPE_F32}
	var outputs *C.PodaOutputs
	check(C.poda_run_alloc(model, &input, 1, nil, &outputs, &failed), failed)
	defer C.poda_outputs_release(outputs)

	var output C.PodaTensor
	check(C.poda_outputs_get(outputs, 0, &output, &failed), failed)
	fmt.Println("output:", unsafe.Slice((*float32)(output.data), int(output.bytes)/4))
}
