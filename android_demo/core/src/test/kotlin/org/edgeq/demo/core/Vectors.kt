package org.edgeq.demo.core

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.json.JSONObject
import org.junit.Assume.assumeTrue

/** What Python computed, in the folder that the property `edgeq.vectors` names. */
object Vectors {
    /** A file of it; the calling test is skipped where there is none. */
    fun file(name: String): File {
        val folder = System.getProperty("edgeq.vectors")
        assumeTrue("edgeq's tests write the vectors; run them by scripts/test", folder != null)
        return File(folder!!, name)
    }

    fun json(name: String) = JSONObject(file(name).readText())

    fun bytes(name: String): ByteArray = file(name).readBytes()

    fun floats(name: String): FloatArray = buffer(name).asFloatBuffer().let { buffer ->
        FloatArray(buffer.remaining()).also { buffer.get(it) }
    }

    fun doubles(name: String): DoubleArray = buffer(name).asDoubleBuffer().let { buffer ->
        DoubleArray(buffer.remaining()).also { buffer.get(it) }
    }

    private fun buffer(name: String) = ByteBuffer.wrap(bytes(name)).order(ByteOrder.LITTLE_ENDIAN)
}
