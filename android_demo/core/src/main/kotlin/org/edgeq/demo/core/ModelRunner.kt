package org.edgeq.demo.core

/** The values of a tensor, row by row. */
sealed class TensorValues {
    abstract val size: Int

    class Float32(val values: FloatArray) : TensorValues() {
        override val size get() = values.size
    }

    class Int8(val values: ByteArray) : TensorValues() {
        override val size get() = values.size
    }
}

/**
 * A loaded model with one input and one output: the only thing that the app knows of LiteRT.
 *
 * Not safe for several threads at once.
 */
interface ModelRunner : AutoCloseable {
    /** What computes, for people: `"XNNPACK, 2 threads"`. */
    val delegate: String

    /**
     * Runs the model once.
     *
     * @throws InputException [input] has not the type or size of the model's input.
     * @throws ModelException The runtime failed on the model.
     */
    fun run(input: TensorValues): TensorValues
}

/** Raises an [InputException] unless [values] are what [port] holds. */
fun checkFits(values: TensorValues, port: Port) {
    val dtype = if (values is TensorValues.Int8) DType.INT8 else DType.FLOAT32
    if (dtype != port.dtype || values.size != port.size) {
        throw InputException(
            "${port.name} takes ${port.size} values of ${port.dtype.text} " +
                "(shape ${port.shape}), but got ${values.size} of ${dtype.text}."
        )
    }
}
