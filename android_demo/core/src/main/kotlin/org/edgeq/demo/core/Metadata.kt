package org.edgeq.demo.core

import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

/** What a tensor's values are stored as; the types that LiteRT's CompiledModel takes. */
enum class DType(val text: String, val bytes: Int) {
    FLOAT32("float32", 4),
    INT8("int8", 1),
}

/** How real numbers are stored as int8: `real = (stored - zeroPoint) * scale`. */
data class Quantization(val scale: Double, val zeroPoint: Int)

/** One input or output: its [name] in the signature, [shape] with the batch, and how it is stored. */
data class Port(
    val name: String,
    val shape: List<Int>,
    val dtype: DType,
    val quantization: Quantization?,
) {
    /** Number of values. */
    val size: Int = shape.fold(1) { size, dimension -> size * dimension }
}

/**
 * How an image becomes the input's real numbers: `(pixel / 255 - mean) / std`.
 *
 * @property mean One number, or one for each channel.
 * @property std Likewise.
 * @property resize The shorter side before the centre crop; null for what just covers the size.
 * @property crops Whether proportions are kept and the centre is cut out.
 */
data class ImageSpec(
    val width: Int,
    val height: Int,
    val channels: Int,
    val channelsFirst: Boolean,
    val mean: List<Float>,
    val std: List<Float>,
    val resize: Int?,
    val crops: Boolean,
)

/** What edgeq writes beside a model as `model.json`. */
data class Metadata(
    val input: Port,
    val output: Port,
    val image: ImageSpec,
    val labels: List<String>,
    val recipe: String,
    val edgeqVersion: String,
) {
    companion object {
        /**
         * Reads the text of a `model.json`.
         *
         * @throws ModelException It is not one, or describes a model that this app cannot serve.
         */
        fun parse(text: String): Metadata = try {
            read(JSONObject(text))
        } catch (error: JSONException) {
            throw ModelException(
                "model.json is damaged (${error.message}); export the model again with " +
                    "edgeq export --android.", error
            )
        }

        private fun read(json: JSONObject): Metadata {
            val inputs = json.getJSONArray("inputs")
            val outputs = json.getJSONArray("outputs")
            ensure(inputs.length() == 1 && outputs.length() == 1) {
                "This app classifies images: one input and one output. The model has " +
                    "${inputs.length()} and ${outputs.length()}."
            }
            val input = port(inputs.getJSONObject(0))
            val output = port(outputs.getJSONObject(0))
            val labels = strings(json.getJSONArray("labels"))
            ensure(labels.size == output.size) {
                "The model gives ${output.size} scores, but model.json has ${labels.size} labels; " +
                    "export it again with the right --labels."
            }
            return Metadata(
                input, output, imageSpec(inputs.getJSONObject(0), input.shape), labels,
                json.getString("recipe"), json.getString("edgeq"),
            )
        }

        private fun port(json: JSONObject): Port {
            val name = json.getString("name")
            val dtype = DType.values().find { it.text == json.getString("dtype") }
                ?: throw ModelException(
                    "$name is ${json.getString("dtype")}; this app takes float32 and int8. " +
                        "Export the model with --inputs int8 --outputs int8."
                )
            val shape = ints(json.getJSONArray("shape"))
            ensure(shape.isNotEmpty() && shape.all { it > 0 } && shape[0] == 1) {
                "$name has the shape $shape; this app needs a fixed one with a batch of 1."
            }
            return Port(name, shape, dtype, quantization(json, name, dtype))
        }

        private fun quantization(json: JSONObject, name: String, dtype: DType): Quantization? {
            if (dtype == DType.FLOAT32) return null
            val scale = json.getDouble("scale")
            val zeroPoint = json.getInt("zero_point")
            ensure(scale > 0 && zeroPoint in -128..127) {
                "$name has scale $scale and zero point $zeroPoint, which int8 cannot have."
            }
            return Quantization(scale, zeroPoint)
        }

        private fun imageSpec(json: JSONObject, shape: List<Int>): ImageSpec {
            ensure(shape.size == 4) { "The input has the shape $shape; an image has four dimensions." }
            val channelsFirst = json.getString("layout") == "nchw"
            val (height, width, channels) =
                if (channelsFirst) listOf(shape[2], shape[3], shape[1]) else shape.drop(1)
            ensure(channels == 1 || channels == 3) {
                "The input has $channels channels in layout ${json.getString("layout")}; " +
                    "images have 1 or 3."
            }
            return ImageSpec(
                width, height, channels, channelsFirst,
                perChannel(json, "mean", channels), perChannel(json, "std", channels),
                if (json.isNull("resize")) null else json.getInt("resize"),
                json.optString("crop", "center") == "center",
            )
        }

        private fun perChannel(json: JSONObject, name: String, channels: Int): List<Float> {
            val numbers = json.getJSONArray(name)
            ensure(numbers.length() == 1 || numbers.length() == channels) {
                "$name has ${numbers.length()} numbers for $channels channels in model.json."
            }
            return List(channels) { numbers.getDouble(minOf(it, numbers.length() - 1)).toFloat() }
        }

        private fun strings(json: JSONArray) = List(json.length()) { json.getString(it) }

        private fun ints(json: JSONArray) = List(json.length()) { json.getInt(it) }

        private inline fun ensure(holds: Boolean, message: () -> String) {
            if (!holds) throw ModelException(message())
        }
    }
}
