package org.edgeq.demo.core

import kotlin.math.abs

/*
 * Bilinear resizing with antialiasing, bit for bit as Pillow's Image.resize(..., BILINEAR), which
 * torchvision and edgeq use on images. A model sees the pixels in the app that it saw in training.
 */

/** The [image] at another size. */
fun resized(image: Image, width: Int, height: Int): Image {
    val wide = if (width == image.width) image else resampled(image, width, horizontal = true)
    return if (height == wide.height) wide else resampled(wide, height, horizontal = false)
}

/** The weights of the source pixels from [first] on that make up one target pixel. */
private class Window(val first: Int, val weights: IntArray)

private fun resampled(image: Image, size: Int, horizontal: Boolean): Image {
    val windows = windows(if (horizontal) image.width else image.height, size)
    val width = if (horizontal) size else image.width
    val height = if (horizontal) image.height else size
    val pixels = ByteArray(width * height * image.channels)
    var next = 0
    for (y in 0 until height) {
        for (x in 0 until width) {
            val window = windows[if (horizontal) x else y]
            for (channel in 0 until image.channels) {
                var sum = 1 shl PRECISION - 1
                for (i in window.weights.indices) {
                    val source = window.first + i
                    val value =
                        if (horizontal) image.at(source, y, channel) else image.at(x, source, channel)
                    sum += value * window.weights[i]
                }
                pixels[next++] = (sum shr PRECISION).coerceIn(0, 255).toByte()
            }
        }
    }
    return Image(width, height, image.channels, pixels)
}

private fun windows(from: Int, to: Int): List<Window> {
    val scale = from.toDouble() / to
    // Enlarging interpolates between two pixels; shrinking averages over as many as fall together.
    val support = maxOf(scale, 1.0)
    return List(to) { index ->
        val center = (index + 0.5) * scale
        val first = maxOf((center - support + 0.5).toInt(), 0)
        val last = minOf((center + support + 0.5).toInt(), from)
        val weights = DoubleArray(last - first) { triangle((first + it - center + 0.5) / support) }
        Window(first, fixed(weights))
    }
}

private fun triangle(distance: Double): Double = maxOf(0.0, 1.0 - abs(distance))

/** [weights] that sum up to 1, in fixed point. */
private fun fixed(weights: DoubleArray): IntArray {
    val sum = weights.sum()
    return IntArray(weights.size) { (0.5 + weights[it] / sum * (1 shl PRECISION)).toInt() }
}

/** Fraction bits: what 8-bit pixels and the sums of their weights leave of 32. */
private const val PRECISION = 32 - 8 - 2
