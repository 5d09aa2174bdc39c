package org.edgeq.demo

import android.content.res.AssetManager
import org.edgeq.demo.core.Metadata
import org.edgeq.demo.core.ModelRunner
import org.edgeq.demo.jni.JniModelRunner

/** LiteRT by its C API: the build of `scripts/build_apk`. */
object LiteRt {
    val name: String get() = "LiteRT C API ${JniModelRunner.version()}"

    /** Loads a model of the app's assets. */
    fun open(assets: AssetManager, path: String, metadata: Metadata, threads: Int): ModelRunner =
        JniModelRunner(assets.open(path).use { it.readBytes() }, metadata, threads)
}
