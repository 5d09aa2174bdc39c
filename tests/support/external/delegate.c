/* A LiteRT external delegate for the tests. It logs what it gets, claims RESHAPE or the Edge TPU's
   ops, which it computes by copying, and fails where its options say so. Built with DEVICES it also
   stands in for libedgetpu.

   Its own declarations of the C API keep it free of headers; the layout is that of
   tensorflow/lite/core/c/common.h from TensorFlow 2.9 on. */
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int size; int data[]; } IntArray;
typedef struct Context Context;
typedef struct Delegate Delegate;

typedef struct {
  int type;
  void* data;
  IntArray* dims;
  struct { float scale; int32_t zero_point; } params;
  int allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  Delegate* delegate;
  int buffer_handle;
  bool data_is_stale, is_variable;
  struct { int type; void* params; } quantization;
  void* sparsity;
  IntArray* dims_signature;
} Tensor;

typedef struct {
  IntArray *inputs, *outputs, *intermediates, *temporaries;
  void *user_data, *builtin_data;
} NodeHead;

typedef struct {
  void* (*init)(Context*, const char*, size_t);
  void (*free)(Context*, void*);
  int (*prepare)(Context*, NodeHead*);
  int (*invoke)(Context*, NodeHead*);
  const char* (*profiling_string)(const Context*, const NodeHead*);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* registration_external;
  void* async_kernel;
  uint64_t inplace_operator;
} Registration;

struct Context {
  size_t tensors_size;
  int (*execution_plan)(Context*, IntArray**);
  Tensor* tensors;
  void* impl;
  void* resize_tensor;
  void (*report_error)(Context*, const char*, ...);
  void* add_tensors;
  int (*node_and_registration)(Context*, int, NodeHead**, Registration**);
  int (*replace_nodes)(Context*, Registration, const IntArray*, Delegate*);
};

typedef struct { Delegate* delegate; IntArray *nodes, *inputs, *outputs; } DelegateParams;

struct Delegate {
  void* data;
  int (*prepare)(Context*, Delegate*);
  void* buffer_handles[3];
  int64_t flags;
  void* opaque_builder;
};

enum { OK = 0, ERROR = 1, RESHAPE = 22, CUSTOM = 32, MOST_NODES = 4096 };

typedef struct {
  Delegate delegate;
  FILE* log;
  int claim;
  bool fail_prepare, fail_invoke;
} Mine;

typedef struct { Mine* mine; int count, in[MOST_NODES], out[MOST_NODES]; } Kernel;

static Mine* loaded;

static void say(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(loaded->log, format, arguments);
  fflush(loaded->log);
  va_end(arguments);
}

static void* kernel_init(Context* context, const char* buffer, size_t length) {
  const DelegateParams* params = (const DelegateParams*)buffer;
  Kernel* kernel = calloc(1, sizeof *kernel);
  kernel->mine = (Mine*)params->delegate;
  kernel->count = params->nodes->size;
  for (int i = 0; i < kernel->count; i++) {
    NodeHead* node;
    Registration* registration;
    context->node_and_registration(context, params->nodes->data[i], &node, &registration);
    kernel->in[i] = node->inputs->data[0];
    kernel->out[i] = node->outputs->data[0];
  }
  say("partition of %d\n", kernel->count);
  return kernel;
}

static void kernel_free(Context* context, void* kernel) { free(kernel); }
static int kernel_prepare(Context* context, NodeHead* node) { return OK; }

static int kernel_invoke(Context* context, NodeHead* node) {
  Kernel* kernel = node->user_data;
  if (kernel->mine->fail_invoke) {
    context->report_error(context, "the test device was unplugged");
    return ERROR;
  }
  for (int i = 0; i < kernel->count; i++) {
    Tensor* in = &context->tensors[kernel->in[i]];
    Tensor* out = &context->tensors[kernel->out[i]];
    memcpy(out->data, in->data, out->bytes);
  }
  return OK;
}

static int prepare(Context* context, Delegate* delegate) {
  Mine* mine = (Mine*)delegate;
  if (mine->fail_prepare) {
    context->report_error(context, "the test delegate has no memory left");
    return ERROR;
  }
  IntArray* plan;
  context->execution_plan(context, &plan);
  IntArray* taken = malloc(sizeof *taken + sizeof(int) * plan->size);
  taken->size = 0;
  for (int i = 0; i < plan->size; i++) {
    NodeHead* node;
    Registration* registration;
    context->node_and_registration(context, plan->data[i], &node, &registration);
    bool own = registration->builtin_code == mine->claim;
    if (mine->claim == CUSTOM)
      own = registration->custom_name && !strcmp(registration->custom_name, "edgetpu-custom-op");
    if (own) taken->data[taken->size++] = plan->data[i];
  }
  say("saw %d nodes, claims %d\n", plan->size, taken->size);
  Registration registration = {kernel_init, kernel_free, kernel_prepare, kernel_invoke};
  registration.custom_name = "TestDelegate";
  registration.version = 1;
  int status = context->replace_nodes(context, registration, taken, delegate);
  free(taken);
  return status;
}

Delegate* tflite_plugin_create_delegate(char** keys, char** values, size_t count,
                                        void (*report_error)(const char*)) {
  Mine* mine = calloc(1, sizeof *mine);
  mine->delegate.prepare = prepare;
  mine->delegate.flags = 1; /* AllowDynamicTensors: custom ops need no kernel of the run time */
  mine->claim = CUSTOM;
  mine->log = stderr;
  loaded = mine;
  for (size_t i = 0; i < count; i++)
    if (!strcmp(keys[i], "log")) mine->log = fopen(values[i], "a");
  for (size_t i = 0; i < count; i++) {
    say("option %s=%s\n", keys[i], strcmp(keys[i], "log") ? values[i] : "...");
    if (!strcmp(keys[i], "claim"))
      mine->claim = strcmp(values[i], "RESHAPE") ? CUSTOM : RESHAPE;
    if (!strcmp(keys[i], "fail")) {
      if (!strcmp(values[i], "create")) report_error("the test device is on fire");
      if (!strcmp(values[i], "create") || !strcmp(values[i], "silently")) return NULL;
      mine->fail_prepare = !strcmp(values[i], "prepare");
      mine->fail_invoke = !strcmp(values[i], "invoke");
    }
  }
#ifdef DEVICES /* as libedgetpu: without a device it gives no reason */
  const char* busy = getenv("TEST_EDGETPU_BUSY");
  if (DEVICES == 0 || (busy && *busy)) return NULL;
#endif
  return &mine->delegate;
}

void tflite_plugin_destroy_delegate(Delegate* delegate) {
  if (!delegate) return;
  say("destroyed\n");
  free(delegate);
}

#ifdef DEVICES
typedef struct { int type; const char* path; } Device;

Device* edgetpu_list_devices(size_t* count) {
  static Device devices[] = {{1, "/sys/bus/usb/devices/2-1"}, {0, "/dev/apex_0"}};
  *count = DEVICES;
  return DEVICES ? devices : NULL;
}

void edgetpu_free_devices(Device* devices) {}
const char* edgetpu_version(void) { return "BuildLabel(test), RuntimeVersion(14)"; }
#endif
