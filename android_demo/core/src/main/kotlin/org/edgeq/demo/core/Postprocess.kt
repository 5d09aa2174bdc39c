package org.edgeq.demo.core

import kotlin.math.exp

/** One class and its probability from 0 to 1. */
data class Score(val label: String, val probability: Double)

/** The real numbers of [stored] int8 values. */
fun dequantize(stored: ByteArray, quantization: Quantization): FloatArray =
    FloatArray(stored.size) {
        ((stored[it].toDouble() - quantization.zeroPoint) * quantization.scale).toFloat()
    }

/** Probabilities of [logits]; the largest is taken off first so that none overflows. */
fun softmax(logits: FloatArray): DoubleArray {
    val largest = logits.maxOrNull() ?: return DoubleArray(0)
    val powers = DoubleArray(logits.size) { exp(logits[it].toDouble() - largest) }
    val sum = powers.sum()
    return DoubleArray(powers.size) { powers[it] / sum }
}

/** The [count] likeliest classes, likeliest first; of equal ones the first comes first. */
fun topK(probabilities: DoubleArray, labels: List<String>, count: Int): List<Score> =
    probabilities.indices
        .sortedByDescending { probabilities[it] }
        .take(count)
        .map { Score(labels[it], probabilities[it]) }
