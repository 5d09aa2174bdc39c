package org.edgeq.demo.jni

import java.io.File
import org.edgeq.demo.core.Benchmark
import org.edgeq.demo.core.Classifier
import org.edgeq.demo.core.Image
import org.edgeq.demo.core.InputException
import org.edgeq.demo.core.Metadata
import org.edgeq.demo.core.ModelException
import org.edgeq.demo.core.TensorValues
import org.edgeq.demo.core.Vectors
import org.json.JSONObject
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** The app's classifier on the native LiteRT, beside Python's interpreter on the same images. */
class ClassifierTest {
    private fun folder(name: String): File = Vectors.file("assets/$name")

    private fun metadata(name: String) = Metadata.parse(File(folder(name), "model.json").readText())

    private fun model(name: String) = File(folder(name), "model.tflite").readBytes()

    private fun open(name: String, threads: Int = 1): Classifier {
        val metadata = metadata(name)
        return Classifier(metadata, JniModelRunner(model(name), metadata, threads))
    }

    private fun images(): List<Image> {
        val pixels = Vectors.bytes("images.bin")
        return List(pixels.size / PIXELS) {
            Image(28, 28, 1, pixels.copyOfRange(it * PIXELS, (it + 1) * PIXELS))
        }
    }

    private fun agrees(name: String, threads: Int) {
        val images = images()
        assertEquals(200, images.size)
        val expected = Vectors.floats("$name.logits")
        val labels = Vectors.bytes("labels.bin")
        var right = 0
        open(name, threads).use { classifier ->
            for ((i, image) in images.withIndex()) {
                val found = classifier.classify(image)
                assertArrayEquals(expected.copyOfRange(i * 10, i * 10 + 10), found.logits, 0f)
                if (found.top[0].label == classifier.metadata.labels[labels[i].toInt()]) right++
            }
        }
        assertEquals(Vectors.json("expected.json").getInt("$name.right"), right)
    }

    @Test
    fun int8LogitsAreThoseOfPythonBitForBit() = agrees("quantized", threads = 1)

    @Test
    fun int8LogitsAreTheSameOnTwoThreads() = agrees("quantized", threads = 2)

    @Test
    fun floatLogitsAreThoseOfPythonBitForBit() = agrees("float", threads = 1)

    @Test
    fun aBenchmarkHasItsRunsAndNamesTheDelegate() {
        val found = open("quantized").use { Benchmark.measure("int8", it, images()[0], runs = 4) }
        val report = JSONObject(Benchmark.report("here", "LiteRT", listOf(found)))
        val json = report.getJSONArray("models").getJSONObject(0)
        assertEquals("XNNPACK, 1 thread", json.getString("delegate"))
        assertEquals(4, json.getInt("runs"))
        assertTrue(json.getDouble("min_ms") > 0)
        assertTrue(json.getDouble("min_ms") <= json.getDouble("median_ms"))
    }

    @Test
    fun damagedModelsAreRefused() {
        val good = model("quantized")
        val damaged = listOf(
            ByteArray(0), ByteArray(100), "hello, hello, hello".toByteArray(),
            good.copyOf(good.size / 2), good.copyOf(good.size - 1000), good.copyOf(64),
            good.copyOf().also { it.fill(0x55, 64, 2000) },
        )
        for (bytes in damaged) {
            val error = assertThrows(ModelException::class.java) {
                JniModelRunner(bytes, metadata("quantized"), 1)
            }
            assertTrue(error.message, error.message!!.startsWith("LiteRT cannot load the model: it"))
        }
    }

    @Test
    fun aModelThatItsMetadataDoesNotDescribeIsRefused() {
        val error = assertThrows(ModelException::class.java) {
            JniModelRunner(model("float"), metadata("quantized"), 1)
        }
        assertTrue(error.message, error.message!!.contains("is not what model.json says"))
        val other = metadata("quantized").let {
            it.copy(input = it.input.copy(quantization = it.input.quantization!!.copy(zeroPoint = 7)))
        }
        assertThrows(ModelException::class.java) { JniModelRunner(model("quantized"), other, 1) }
    }

    @Test
    fun aBufferOfTheWrongSizeOrTypeIsRefused() {
        JniModelRunner(model("quantized"), metadata("quantized"), 1).use { runner ->
            for (size in listOf(0, PIXELS - 1, PIXELS + 1, 1000000)) {
                val error = assertThrows(InputException::class.java) {
                    runner.run(TensorValues.Int8(ByteArray(size)))
                }
                assertTrue(error.message, error.message!!.endsWith("but got $size of int8."))
            }
            assertThrows(InputException::class.java) {
                runner.run(TensorValues.Float32(FloatArray(PIXELS)))
            }
            assertEquals(10, runner.run(TensorValues.Int8(ByteArray(PIXELS))).size)
        }
    }

    @Test
    fun aClosedModelSaysSo() {
        val runner = JniModelRunner(model("quantized"), metadata("quantized"), 1)
        runner.close()
        runner.close()
        assertThrows(IllegalStateException::class.java) {
            runner.run(TensorValues.Int8(ByteArray(PIXELS)))
        }
    }

    private companion object {
        const val PIXELS = 28 * 28
    }
}
