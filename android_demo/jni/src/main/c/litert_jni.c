/* LiteRT's C interpreter API for LiteRtNative.kt, one function each.
 *
 * Needs nothing of libc, so that clang builds it for Android without an NDK. Handles are pointers
 * as long; sizes are checked in Kotlin before a tensor's memory is read or written. */

#include <jni.h>
#include <stddef.h>
#include <stdint.h>

typedef struct TfLiteModel TfLiteModel;
typedef struct TfLiteDelegate TfLiteDelegate;
typedef struct TfLiteInterpreter TfLiteInterpreter;
typedef struct TfLiteInterpreterOptions TfLiteInterpreterOptions;
typedef struct TfLiteTensor TfLiteTensor;
typedef struct {
    float scale;
    int32_t zero_point;
} TfLiteQuantizationParams;

/* The number of threads stands first in every version; the rest, whose length has grown over the
 * years, is kept as the library fills it in. It is returned through a pointer to this memory. */
typedef struct {
    int32_t num_threads;
    char rest[252];
} TfLiteXNNPackDelegateOptions;

TfLiteModel* TfLiteModelCreate(const void* model_data, size_t model_size);
void TfLiteModelDelete(TfLiteModel*);
TfLiteXNNPackDelegateOptions TfLiteXNNPackDelegateOptionsDefault(void);
TfLiteDelegate* TfLiteXNNPackDelegateCreate(const TfLiteXNNPackDelegateOptions*);
void TfLiteXNNPackDelegateDelete(TfLiteDelegate*);
TfLiteInterpreterOptions* TfLiteInterpreterOptionsCreate(void);
void TfLiteInterpreterOptionsDelete(TfLiteInterpreterOptions*);
void TfLiteInterpreterOptionsSetNumThreads(TfLiteInterpreterOptions*, int32_t);
void TfLiteInterpreterOptionsAddDelegate(TfLiteInterpreterOptions*, TfLiteDelegate*);
TfLiteInterpreter* TfLiteInterpreterCreate(const TfLiteModel*, const TfLiteInterpreterOptions*);
void TfLiteInterpreterDelete(TfLiteInterpreter*);
int TfLiteInterpreterAllocateTensors(TfLiteInterpreter*);
int TfLiteInterpreterInvoke(TfLiteInterpreter*);
int32_t TfLiteInterpreterGetInputTensorCount(const TfLiteInterpreter*);
int32_t TfLiteInterpreterGetOutputTensorCount(const TfLiteInterpreter*);
TfLiteTensor* TfLiteInterpreterGetInputTensor(const TfLiteInterpreter*, int32_t);
const TfLiteTensor* TfLiteInterpreterGetOutputTensor(const TfLiteInterpreter*, int32_t);
int TfLiteTensorType(const TfLiteTensor*);
int32_t TfLiteTensorNumDims(const TfLiteTensor*);
int32_t TfLiteTensorDim(const TfLiteTensor*, int32_t);
void* TfLiteTensorData(const TfLiteTensor*);
TfLiteQuantizationParams TfLiteTensorQuantizationParams(const TfLiteTensor*);
const char* TfLiteVersion(void);

#define NATIVE(type, name) \
    JNIEXPORT type JNICALL Java_org_edgeq_demo_jni_LiteRtNative_##name
#define HANDLE(pointer) ((jlong)(intptr_t)(pointer))
#define POINTER(type, handle) ((type*)(intptr_t)(handle))

NATIVE(jstring, version)(JNIEnv* env, jclass self) {
    return (*env)->NewStringUTF(env, TfLiteVersion());
}

/* `model` is a direct buffer, which must live as long as the handle. */
NATIVE(jlong, createModel)(JNIEnv* env, jclass self, jobject model) {
    void* data = (*env)->GetDirectBufferAddress(env, model);
    return HANDLE(TfLiteModelCreate(data, (size_t)(*env)->GetDirectBufferCapacity(env, model)));
}

NATIVE(jlong, createDelegate)(JNIEnv* env, jclass self, jint threads) {
    TfLiteXNNPackDelegateOptions options = TfLiteXNNPackDelegateOptionsDefault();
    options.num_threads = threads;
    return HANDLE(TfLiteXNNPackDelegateCreate(&options));
}

NATIVE(jlong, createInterpreter)(
    JNIEnv* env, jclass self, jlong model, jlong delegate, jint threads) {
    TfLiteInterpreterOptions* options = TfLiteInterpreterOptionsCreate();
    TfLiteInterpreterOptionsSetNumThreads(options, threads);
    TfLiteInterpreterOptionsAddDelegate(options, POINTER(TfLiteDelegate, delegate));
    TfLiteInterpreter* made = TfLiteInterpreterCreate(POINTER(TfLiteModel, model), options);
    TfLiteInterpreterOptionsDelete(options);
    return HANDLE(made);
}

NATIVE(jboolean, allocateTensors)(JNIEnv* env, jclass self, jlong interpreter) {
    return TfLiteInterpreterAllocateTensors(POINTER(TfLiteInterpreter, interpreter)) == 0;
}

NATIVE(jboolean, invoke)(JNIEnv* env, jclass self, jlong interpreter) {
    return TfLiteInterpreterInvoke(POINTER(TfLiteInterpreter, interpreter)) == 0;
}

NATIVE(jint, inputCount)(JNIEnv* env, jclass self, jlong interpreter) {
    return TfLiteInterpreterGetInputTensorCount(POINTER(TfLiteInterpreter, interpreter));
}

NATIVE(jint, outputCount)(JNIEnv* env, jclass self, jlong interpreter) {
    return TfLiteInterpreterGetOutputTensorCount(POINTER(TfLiteInterpreter, interpreter));
}

NATIVE(jlong, input)(JNIEnv* env, jclass self, jlong interpreter) {
    return HANDLE(TfLiteInterpreterGetInputTensor(POINTER(TfLiteInterpreter, interpreter), 0));
}

NATIVE(jlong, output)(JNIEnv* env, jclass self, jlong interpreter) {
    return HANDLE(TfLiteInterpreterGetOutputTensor(POINTER(TfLiteInterpreter, interpreter), 0));
}

NATIVE(jint, type)(JNIEnv* env, jclass self, jlong tensor) {
    return TfLiteTensorType(POINTER(TfLiteTensor, tensor));
}

NATIVE(jintArray, shape)(JNIEnv* env, jclass self, jlong tensor) {
    const TfLiteTensor* of = POINTER(TfLiteTensor, tensor);
    jint rank = TfLiteTensorNumDims(of);
    jintArray shape = (*env)->NewIntArray(env, rank);
    for (jint i = 0; shape != NULL && i < rank; i++) {
        jint dimension = TfLiteTensorDim(of, i);
        (*env)->SetIntArrayRegion(env, shape, i, 1, &dimension);
    }
    return shape;
}

NATIVE(jfloat, scale)(JNIEnv* env, jclass self, jlong tensor) {
    return TfLiteTensorQuantizationParams(POINTER(TfLiteTensor, tensor)).scale;
}

NATIVE(jint, zeroPoint)(JNIEnv* env, jclass self, jlong tensor) {
    return TfLiteTensorQuantizationParams(POINTER(TfLiteTensor, tensor)).zero_point;
}

NATIVE(void, writeInt8)(JNIEnv* env, jclass self, jlong tensor, jbyteArray values) {
    jsize size = (*env)->GetArrayLength(env, values);
    void* data = TfLiteTensorData(POINTER(TfLiteTensor, tensor));
    (*env)->GetByteArrayRegion(env, values, 0, size, data);
}

NATIVE(void, readInt8)(JNIEnv* env, jclass self, jlong tensor, jbyteArray values) {
    jsize size = (*env)->GetArrayLength(env, values);
    void* data = TfLiteTensorData(POINTER(TfLiteTensor, tensor));
    (*env)->SetByteArrayRegion(env, values, 0, size, data);
}

NATIVE(void, writeFloat)(JNIEnv* env, jclass self, jlong tensor, jfloatArray values) {
    jsize size = (*env)->GetArrayLength(env, values);
    void* data = TfLiteTensorData(POINTER(TfLiteTensor, tensor));
    (*env)->GetFloatArrayRegion(env, values, 0, size, data);
}

NATIVE(void, readFloat)(JNIEnv* env, jclass self, jlong tensor, jfloatArray values) {
    jsize size = (*env)->GetArrayLength(env, values);
    void* data = TfLiteTensorData(POINTER(TfLiteTensor, tensor));
    (*env)->SetFloatArrayRegion(env, values, 0, size, data);
}

/* In the order in which they depend on each other; a handle of 0 is skipped. */
NATIVE(void, delete)(JNIEnv* env, jclass self, jlong interpreter, jlong delegate, jlong model) {
    if (interpreter) TfLiteInterpreterDelete(POINTER(TfLiteInterpreter, interpreter));
    if (delegate) TfLiteXNNPackDelegateDelete(POINTER(TfLiteDelegate, delegate));
    if (model) TfLiteModelDelete(POINTER(TfLiteModel, model));
}
