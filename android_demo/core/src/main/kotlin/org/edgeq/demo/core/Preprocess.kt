package org.edgeq.demo.core

/*
 * From an image to the values of the input tensor, in the order and arithmetic of edgeq's reader of
 * image folders: channels, resize, crop, normalise, quantize.
 */

/** The real numbers of the input for an [image] of any size, in the order of the tensor. */
fun preprocess(image: Image, spec: ImageSpec): FloatArray =
    normalise(fitted(image.withChannels(spec.channels), spec), spec)

/** The [image] at the size of the input. */
fun fitted(image: Image, spec: ImageSpec): Image {
    val (width, height) = sizeBeforeCrop(image.width, image.height, spec)
    val left = Math.rint((width - spec.width) / 2.0).toInt()
    val top = Math.rint((height - spec.height) / 2.0).toInt()
    return resized(image, width, height).cropped(left, top, spec.width, spec.height)
}

private fun sizeBeforeCrop(width: Int, height: Int, spec: ImageSpec): Pair<Int, Int> {
    if (!spec.crops) return Pair(spec.width, spec.height)
    if (spec.resize != null) {
        val longer =
            (spec.resize.toLong() * maxOf(width, height) / minOf(width, height).toDouble()).toInt()
        return if (height <= width) Pair(longer, spec.resize) else Pair(spec.resize, longer)
    }
    // The smallest size of the same proportions that covers the input.
    return if (spec.height.toLong() * width >= spec.width.toLong() * height) {
        Pair((spec.height.toLong() * width / height.toDouble()).toInt(), spec.height)
    } else {
        Pair(spec.width, (spec.width.toLong() * height / width.toDouble()).toInt())
    }
}

/** `(pixel / 255 - mean) / std` of an [image] that has the input's size, in float32 throughout. */
fun normalise(image: Image, spec: ImageSpec): FloatArray {
    val scale = (1.0 / 255).toFloat()
    val values = FloatArray(image.pixels.size)
    val plane = image.width * image.height
    for (pixel in 0 until plane) {
        for (channel in 0 until image.channels) {
            val value = (image.pixels[pixel * image.channels + channel].toInt() and 0xFF).toFloat()
            val place =
                if (spec.channelsFirst) channel * plane + pixel else pixel * image.channels + channel
            values[place] = (value * scale - spec.mean[channel]) / spec.std[channel]
        }
    }
    return values
}

/** Rounds [real] numbers to the nearest int8, ties to even; what is out of range saturates. */
fun quantize(real: FloatArray, quantization: Quantization): ByteArray =
    ByteArray(real.size) {
        val steps = Math.rint(real[it].toDouble() / quantization.scale) + quantization.zeroPoint
        steps.coerceIn(-128.0, 127.0).toInt().toByte()
    }
