package org.edgeq.demo.core

/**
 * What a model says of an image.
 *
 * @property probabilities One for each label.
 * @property inferenceMs Time in the runtime alone, in milliseconds.
 * @property totalMs Time with pre- and postprocessing.
 */
class Classification(
    val top: List<Score>,
    val logits: FloatArray,
    val probabilities: DoubleArray,
    val inferenceMs: Double,
    val totalMs: Double,
)

/** Pre- and postprocessing around a [runner]; owns and closes it. */
class Classifier(val metadata: Metadata, private val runner: ModelRunner) : AutoCloseable {
    /** What computes, for people. */
    val delegate: String get() = runner.delegate

    /**
     * Classifies an image of any size.
     *
     * @param count How many classes [Classification.top] has.
     * @throws DemoException The image or the model is wrong.
     */
    fun classify(image: Image, count: Int = 3): Classification {
        val start = System.nanoTime()
        val input = stored(preprocess(image, metadata.image))
        val before = System.nanoTime()
        val output = runner.run(input)
        val after = System.nanoTime()
        val logits = real(output)
        val probabilities = softmax(logits)
        val top = topK(probabilities, metadata.labels, count)
        return Classification(
            top, logits, probabilities, ms(after - before), ms(System.nanoTime() - start)
        )
    }

    private fun stored(real: FloatArray): TensorValues =
        metadata.input.quantization?.let { TensorValues.Int8(quantize(real, it)) }
            ?: TensorValues.Float32(real)

    private fun real(output: TensorValues): FloatArray = when (output) {
        is TensorValues.Float32 -> output.values
        is TensorValues.Int8 -> dequantize(output.values, metadata.output.quantization!!)
    }

    override fun close() = runner.close()

    private fun ms(ns: Long) = ns / 1e6
}

/** The largest difference of a class's probability between two models. */
fun largestDifference(one: Classification, other: Classification): Double =
    one.probabilities.indices.maxOf { Math.abs(one.probabilities[it] - other.probabilities[it]) }
