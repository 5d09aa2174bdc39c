package org.edgeq.demo.core

import org.json.JSONObject
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Pixels to input values, beside edgeq's reader of image folders (Pillow and numpy). */
class PreprocessTest {
    @Test
    fun photosBecomeTheNumbersOfPython() {
        val cases = Vectors.json("photos.json").getJSONArray("cases")
        assertTrue(cases.length() > 5)
        for (i in 0 until cases.length()) {
            val case = cases.getJSONObject(i)
            val metadata = Metadata.parse(case.getJSONObject("metadata").toString())
            val expected = Vectors.floats(case.getString("values"))
            assertArrayEquals(case.toString(), expected, preprocess(photo(case), metadata.image), 0f)
        }
    }

    private fun photo(case: JSONObject) = Image(
        case.getInt("width"), case.getInt("height"), case.getInt("channels"),
        Vectors.bytes(case.getString("pixels")),
    )

    @Test
    fun realNumbersBecomeTheInt8OfPython() {
        val quantization = Quantization(Vectors.json("quantize.json").getDouble("scale"), -3)
        val real = Vectors.floats("quantize.real")
        assertArrayEquals(Vectors.bytes("quantize.int8"), quantize(real, quantization))
        val back = dequantize(Vectors.bytes("quantize.int8"), quantization)
        assertArrayEquals(Vectors.floats("quantize.back"), back, 0f)
    }

    @Test
    fun tiesRoundToEvenAndFarValuesSaturate() {
        val real = floatArrayOf(0.5f, 1.5f, -0.5f, -2.5f, 1000f, -1000f)
        val stored = quantize(real, Quantization(1.0, 0))
        assertArrayEquals(byteArrayOf(0, 2, 0, -2, 127, -128), stored)
    }

    @Test
    fun aBitmapKeepsItsColours() {
        val image = Image.ofArgb(2, 1, intArrayOf(0x7F010203, 0xFF0A0B0C.toInt()))
        assertArrayEquals(byteArrayOf(1, 2, 3, 10, 11, 12), image.pixels)
        assertArrayEquals(byteArrayOf(-2, -3, -4, -11, -12, -13), image.inverted().pixels)
    }

    @Test
    fun imagesTurnClockwise() {
        val image = Image(3, 2, 1, byteArrayOf(1, 2, 3, 4, 5, 6))
        assertArrayEquals(byteArrayOf(4, 1, 5, 2, 6, 3), image.rotated(90).pixels)
        assertArrayEquals(byteArrayOf(6, 5, 4, 3, 2, 1), image.rotated(180).pixels)
        assertArrayEquals(image.rotated(90).rotated(180).pixels, image.rotated(270).pixels)
        assertEquals(2, image.rotated(90).width)
        assertThrows(InputException::class.java) { image.rotated(45) }
    }

    @Test
    fun aCamerasFrameBecomesTheColoursOfPillow() {
        val rgb = Image.ofYuv(
            16, 16,
            listOf("yuv.y", "yuv.u", "yuv.v").map { plane(it, if (it == "yuv.y") 16 else 8) },
        )
        val expected = Vectors.bytes("yuv.rgb")
        val largest = rgb.pixels.indices.maxOf {
            Math.abs((rgb.pixels[it].toInt() and 0xFF) - (expected[it].toInt() and 0xFF))
        }
        // Pillow keeps six fraction bits.
        assertTrue("largest difference $largest", largest <= 1)
    }

    /** With gaps between rows and pixels, as cameras leave them. */
    private fun plane(name: String, side: Int): Plane {
        val values = Vectors.bytes(name)
        val spread = ByteArray(side * (2 * side + 5))
        for (i in values.indices) spread[i / side * (2 * side + 5) + i % side * 2] = values[i]
        return Plane(spread, 2 * side + 5, 2)
    }

    @Test
    fun anImageThatDoesNotFillItsSizeIsRefused() {
        val error = assertThrows(InputException::class.java) { Image(28, 28, 1, ByteArray(783)) }
        assertEquals("An image of 28x28 with 1 channels needs 784 bytes, but got 783.", error.message)
    }
}
