package org.edgeq.demo

import android.content.res.AssetManager
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.LiteRtException
import com.google.ai.edge.litert.TensorBuffer
import org.edgeq.demo.core.DType
import org.edgeq.demo.core.Metadata
import org.edgeq.demo.core.ModelException
import org.edgeq.demo.core.ModelRunner
import org.edgeq.demo.core.Port
import org.edgeq.demo.core.TensorValues
import org.edgeq.demo.core.checkFits

/** LiteRT by its Kotlin API: the build of Gradle. */
object LiteRt {
    const val name = "LiteRT CompiledModel"

    /** Loads a model of the app's assets. */
    fun open(assets: AssetManager, path: String, metadata: Metadata, threads: Int): ModelRunner =
        CompiledModelRunner(assets, path, metadata, threads)
}

/**
 * A model on the CPU accelerator of LiteRT's CompiledModel, which is XNNPACK.
 *
 * @throws ModelException LiteRT refuses the file, or it is not what [metadata] says.
 */
private class CompiledModelRunner(
    assets: AssetManager,
    path: String,
    private val metadata: Metadata,
    threads: Int,
) : ModelRunner {
    private val opened = ArrayList<AutoCloseable>()
    private val model: CompiledModel
    private val input: TensorBuffer
    private val output: TensorBuffer

    override val delegate = "CPU accelerator (XNNPACK), threads: $threads"

    init {
        val options = CompiledModel.Options(Accelerator.CPU)
        options.cpuOptions = CompiledModel.CpuOptions(numThreads = threads)
        try {
            model = CompiledModel.create(assets, path, options).also(opened::add)
            input = model.createInputBuffer(metadata.input.name).also(opened::add)
            output = model.createOutputBuffer(metadata.output.name).also(opened::add)
            checkIs(
                input, model.getInputBufferRequirements(metadata.input.name).bufferSize,
                metadata.input,
            )
            checkIs(
                output, model.getOutputBufferRequirements(metadata.output.name).bufferSize,
                metadata.output,
            )
        } catch (error: LiteRtException) {
            close()
            throw ModelException("LiteRT cannot load the model: ${error.message}.", error)
        } catch (error: ModelException) {
            close()
            throw error
        }
    }

    // The Kotlin API tells neither types nor scales. The number of elements, which reading as int8
    // gives for any type, and the bytes of the buffer must do.
    private fun checkIs(buffer: TensorBuffer, bytes: Int, port: Port) {
        if (buffer.readInt8().size != port.size || bytes < port.size * port.dtype.bytes) {
            throw ModelException(
                "LiteRT cannot load the model: its ${port.name} is not what model.json says; " +
                    "export both again together."
            )
        }
    }

    override fun run(input: TensorValues): TensorValues {
        checkFits(input, metadata.input)
        try {
            when (input) {
                is TensorValues.Int8 -> this.input.writeInt8(input.values)
                is TensorValues.Float32 -> this.input.writeFloat(input.values)
            }
            model.run(listOf(this.input), listOf(output))
            return when (metadata.output.dtype) {
                DType.INT8 -> TensorValues.Int8(output.readInt8())
                DType.FLOAT32 -> TensorValues.Float32(output.readFloat())
            }
        } catch (error: LiteRtException) {
            throw ModelException("LiteRT failed to run the model: ${error.message}.", error)
        }
    }

    /** Buffers first, then the model. */
    override fun close() = opened.asReversed().forEach(AutoCloseable::close)
}
