package org.edgeq.demo.core

/**
 * An image of 8-bit pixels, row by row, the channels of a pixel side by side.
 *
 * @property pixels `height * width * channels` values of 0 to 255; read them with [at].
 * @throws InputException The pixels do not fill the size.
 */
class Image(val width: Int, val height: Int, val channels: Int, val pixels: ByteArray) {
    init {
        if (width < 1 || height < 1 || pixels.size != width * height * channels) {
            throw InputException(
                "An image of ${width}x$height with $channels channels needs " +
                    "${width.toLong() * height * channels} bytes, but got ${pixels.size}."
            )
        }
    }

    /** The value of a pixel's channel, 0 to 255. */
    fun at(x: Int, y: Int, channel: Int): Int =
        pixels[(y * width + x) * channels + channel].toInt() and 0xFF

    /** The image with [channels] 1 (grey) or 3 (red, green, blue). */
    fun withChannels(channels: Int): Image = when {
        channels == this.channels -> this
        channels == 1 -> mapPixels(1) { x, y, _ -> luma(at(x, y, 0), at(x, y, 1), at(x, y, 2)) }
        channels == 3 -> mapPixels(3) { x, y, _ -> at(x, y, 0) }
        else -> throw InputException("The model wants $channels channels; images have 1 or 3.")
    }

    /** Light becomes dark and dark becomes light. */
    fun inverted(): Image = mapPixels(channels) { x, y, channel -> 255 - at(x, y, channel) }

    /** Turned clockwise by 0, 90, 180 or 270 [degrees], as a camera's sensor stands in its phone. */
    fun rotated(degrees: Int): Image = when (degrees) {
        0 -> this
        90 -> moved(height, width) { x, y, channel -> at(y, height - 1 - x, channel) }
        180 -> moved(width, height) { x, y, channel -> at(width - 1 - x, height - 1 - y, channel) }
        270 -> moved(height, width) { x, y, channel -> at(width - 1 - y, x, channel) }
        else -> throw InputException("Images turn by 0, 90, 180 or 270 degrees, not $degrees.")
    }

    /** The part of [width] x [height] pixels whose upper left corner is at ([left], [top]). */
    fun cropped(left: Int, top: Int, width: Int, height: Int): Image =
        moved(width, height) { x, y, channel -> at(left + x, top + y, channel) }

    private inline fun mapPixels(channels: Int, value: (Int, Int, Int) -> Int): Image =
        made(width, height, channels, value)

    private inline fun moved(width: Int, height: Int, value: (Int, Int, Int) -> Int): Image =
        made(width, height, channels, value)

    companion object {
        /** An RGB image of [argb] pixels, as an Android bitmap holds them; alpha is ignored. */
        fun ofArgb(width: Int, height: Int, argb: IntArray): Image {
            if (argb.size != width * height) {
                throw InputException(
                    "A bitmap of ${width}x$height has ${width * height} pixels, not ${argb.size}."
                )
            }
            return made(width, height, 3) { x, y, channel ->
                argb[y * width + x] shr (16 - 8 * channel) and 0xFF
            }
        }

        /** An RGB image of a camera's [planes]: luma, blue and red difference, full range. */
        fun ofYuv(width: Int, height: Int, planes: List<Plane>): Image {
            val (luma, blue, red) = planes
            val pixels = ByteArray(width * height * 3)
            var next = 0
            for (y in 0 until height) {
                for (x in 0 until width) {
                    val yy = luma.at(x, y) shl FRACTION
                    val cb = blue.at(x / 2, y / 2) - 128
                    val cr = red.at(x / 2, y / 2) - 128
                    pixels[next++] = clipped(yy + 91881 * cr)
                    pixels[next++] = clipped(yy - 22554 * cb - 46802 * cr)
                    pixels[next++] = clipped(yy + 116130 * cb)
                }
            }
            return Image(width, height, 3, pixels)
        }

        private inline fun made(
            width: Int, height: Int, channels: Int, value: (Int, Int, Int) -> Int
        ): Image {
            val pixels = ByteArray(width * height * channels)
            var next = 0
            for (y in 0 until height) {
                for (x in 0 until width) {
                    for (channel in 0 until channels) {
                        pixels[next++] = value(x, y, channel).toByte()
                    }
                }
            }
            return Image(width, height, channels, pixels)
        }

        /** ITU-R 601 luma with the integer weights that Pillow uses. */
        private fun luma(red: Int, green: Int, blue: Int): Int =
            (red * 19595 + green * 38470 + blue * 7471 + 0x8000) shr 16

        /** Fraction bits of the colour conversion; its factors are 1.402, 0.344136, ... times 2^16. */
        private const val FRACTION = 16

        private fun clipped(fixed: Int): Byte =
            ((fixed + (1 shl FRACTION - 1)) shr FRACTION).coerceIn(0, 255).toByte()
    }
}

/** One plane of a camera's frame: [bytes] with the distance of its rows and of its pixels. */
class Plane(private val bytes: ByteArray, private val rowStride: Int, private val pixelStride: Int) {
    /** The value at a place, 0 to 255. */
    fun at(x: Int, y: Int): Int = bytes[y * rowStride + x * pixelStride].toInt() and 0xFF
}
