package org.edgeq.demo.core

import org.json.JSONArray
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class MetadataTest {
    @Test
    fun aModelJsonIsRead() {
        val metadata = Metadata.parse(good().toString())
        assertEquals(Quantization(0.5, -3), metadata.input.quantization)
        assertEquals(ImageSpec(3, 2, 1, true, listOf(0.5f), listOf(2f), null, true), metadata.image)
        assertEquals(listOf("cat", "dog"), metadata.labels)
    }

    @Test
    fun whatTheAppCannotServeIsRefusedWithWhatToDo() {
        refused("{", "model.json is damaged")
        refused("", "model.json is damaged")
        refused(good().put("labels", JSONArray(listOf("cat"))), "2 scores, but model.json has 1 labels")
        refused(good().put("inputs", JSONArray()), "one input and one output. The model has 0 and 1")
        refused(input("dtype", "uint8"), "image is uint8; this app takes float32 and int8")
        refused(input("shape", JSONArray(listOf(1, -1, 2, 3))), "needs a fixed one")
        refused(input("shape", JSONArray(listOf(1, 10))), "an image has four dimensions")
        refused(input("shape", JSONArray(listOf(1, 2, 2, 3))), "The input has 2 channels")
        refused(input("mean", JSONArray(listOf(1, 2))), "mean has 2 numbers for 1 channels")
        refused(input("scale", JSONObject.NULL), "model.json is damaged")
    }

    private fun refused(json: Any, text: String) {
        val error = assertThrows(ModelException::class.java) { Metadata.parse(json.toString()) }
        assertTrue(error.message, error.message!!.contains(text))
    }

    private fun input(name: String, value: Any): JSONObject {
        val json = good()
        json.getJSONArray("inputs").getJSONObject(0).put(name, value)
        return json
    }

    private fun good() = JSONObject(
        """
        {"edgeq": "0.1.0", "recipe": "int8", "labels": ["cat", "dog"],
         "inputs": [{"name": "image", "shape": [1, 1, 2, 3], "dtype": "int8", "scale": 0.5,
                     "zero_point": -3, "layout": "nchw", "mean": [0.5], "std": [2]}],
         "outputs": [{"name": "scores", "shape": [1, 2], "dtype": "float32"}]}
        """
    )
}
