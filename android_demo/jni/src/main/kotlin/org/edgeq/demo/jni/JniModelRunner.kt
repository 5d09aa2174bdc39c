package org.edgeq.demo.jni

import java.nio.ByteBuffer
import org.edgeq.demo.core.DType
import org.edgeq.demo.core.Metadata
import org.edgeq.demo.core.ModelException
import org.edgeq.demo.core.ModelRunner
import org.edgeq.demo.core.Port
import org.edgeq.demo.core.TensorValues
import org.edgeq.demo.core.checkFits

/**
 * A model on LiteRT's C interpreter API with the XNNPACK delegate.
 *
 * @param model The bytes of a .tflite file.
 * @param metadata What the file must be.
 * @param threads Threads for one run.
 * @throws ModelException LiteRT refuses the file, or it is not what [metadata] says.
 */
class JniModelRunner(model: ByteArray, private val metadata: Metadata, threads: Int) : ModelRunner {
    // LiteRT reads the weights where they are, so that the buffer lives as long as the handles.
    private val content = ByteBuffer.allocateDirect(model.size).put(model)
    private var modelHandle = 0L
    private var delegateHandle = 0L
    private var interpreter = 0L

    override val delegate = "XNNPACK, $threads ${if (threads == 1) "thread" else "threads"}"

    init {
        try {
            open(threads)
        } catch (error: ModelException) {
            close()
            throw error
        }
    }

    private fun open(threads: Int) {
        modelHandle = made(LiteRtNative.createModel(content), "it is damaged or no .tflite file")
        delegateHandle = made(LiteRtNative.createDelegate(threads), "XNNPACK cannot be started")
        interpreter = made(
            LiteRtNative.createInterpreter(modelHandle, delegateHandle, threads),
            "it is damaged or has ops that this LiteRT does not know",
        )
        if (!LiteRtNative.allocateTensors(interpreter)) refuse("its tensors cannot be allocated")
        val inputs = LiteRtNative.inputCount(interpreter)
        val outputs = LiteRtNative.outputCount(interpreter)
        if (inputs != 1 || outputs != 1) refuse("it has $inputs inputs and $outputs outputs")
        checkIs(LiteRtNative.input(interpreter), metadata.input)
        checkIs(LiteRtNative.output(interpreter), metadata.output)
    }

    override fun run(input: TensorValues): TensorValues {
        checkFits(input, metadata.input)
        check(interpreter != 0L) { "the model is closed" }
        val tensor = LiteRtNative.input(interpreter)
        when (input) {
            is TensorValues.Int8 -> LiteRtNative.writeInt8(tensor, input.values)
            is TensorValues.Float32 -> LiteRtNative.writeFloat(tensor, input.values)
        }
        if (!LiteRtNative.invoke(interpreter)) throw ModelException("LiteRT failed to run the model.")
        return read(LiteRtNative.output(interpreter))
    }

    private fun read(tensor: Long): TensorValues = when (metadata.output.dtype) {
        DType.INT8 ->
            TensorValues.Int8(ByteArray(metadata.output.size).also { LiteRtNative.readInt8(tensor, it) })
        DType.FLOAT32 ->
            TensorValues.Float32(
                FloatArray(metadata.output.size).also { LiteRtNative.readFloat(tensor, it) }
            )
    }

    override fun close() {
        LiteRtNative.delete(interpreter, delegateHandle, modelHandle)
        interpreter = 0L
        delegateHandle = 0L
        modelHandle = 0L
    }

    private fun made(handle: Long, otherwise: String): Long =
        if (handle != 0L) handle else refuse(otherwise)

    private fun refuse(reason: String): Nothing =
        throw ModelException("LiteRT cannot load the model: $reason.")

    private fun checkIs(tensor: Long, port: Port) {
        val type = TYPES[port.dtype]
        val shape = LiteRtNative.shape(tensor).toList()
        val found = LiteRtNative.type(tensor)
        val scaled = port.quantization?.let {
            it.scale.toFloat() == LiteRtNative.scale(tensor) &&
                it.zeroPoint == LiteRtNative.zeroPoint(tensor)
        }
        if (found != type || shape != port.shape || scaled == false) {
            refuse("its ${port.name} is not what model.json says; export both again together")
        }
    }

    companion object {
        /** The version of the LiteRT library. */
        fun version(): String = LiteRtNative.version()

        /** The codes of the C API. */
        private val TYPES = mapOf(DType.FLOAT32 to 1, DType.INT8 to 9)
    }
}
