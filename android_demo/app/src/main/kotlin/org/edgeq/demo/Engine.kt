package org.edgeq.demo

import android.content.res.AssetManager
import android.os.Handler
import android.os.Looper
import java.io.IOException
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.ThreadPoolExecutor
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicBoolean
import org.edgeq.demo.core.Benchmark
import org.edgeq.demo.core.Classification
import org.edgeq.demo.core.Classifier
import org.edgeq.demo.core.DemoException
import org.edgeq.demo.core.Image
import org.edgeq.demo.core.Metadata
import org.edgeq.demo.core.ModelException

/** The two models of the app, and the folders of the assets that they are in. */
enum class Variant(val folder: String) {
    QUANTIZED("quantized"),
    FLOAT("float"),
}

/** What a loaded model is: how edgeq made it, and what computes it. */
class ModelInfo(val recipe: String, val delegate: String)

/**
 * Owns both models and the one thread that loads, runs and closes them.
 *
 * Outlives the activity when the device is turned. What is done with a result happens on the UI
 * thread; errors go to the [listener], if there is one at the time.
 */
class Engine(private val assets: AssetManager) : AutoCloseable {
    /** Told of every error, in one sentence. */
    var listener: ((String) -> Unit)? = null

    /** The loaded models; read and changed on the UI thread alone. */
    var info: Map<Variant, ModelInfo> = emptyMap()
        private set

    // A camera's last frame may come after the end; it is dropped.
    private val worker = ThreadPoolExecutor(
        1, 1, 0, TimeUnit.SECONDS, LinkedBlockingQueue(), ThreadPoolExecutor.DiscardPolicy()
    )
    private val main = Handler(Looper.getMainLooper())
    private val busy = AtomicBoolean()

    // Touched by the worker alone.
    private val models = HashMap<Variant, Classifier>()

    /** Loads both models, and closes those that were loaded before. */
    fun load(threads: Int, done: () -> Unit) = submit({ reload(threads) }) {
        info = it
        done()
    }

    /** Classifies with both models; what [done] gets has both. */
    fun classify(image: Image, done: (Map<Variant, Classification>) -> Unit) =
        submit({ classified(image) }, done)

    /** Whether a frame would be classified now, rather than dropped. */
    val wantsFrame: Boolean get() = !busy.get()

    /** As [classify], for one of a stream of frames; it is dropped while another is under way. */
    fun classifyFrame(frame: Image, done: (Map<Variant, Classification>) -> Unit) {
        if (!busy.compareAndSet(false, true)) return
        submit({
            try {
                classified(frame)
            } finally {
                busy.set(false)
            }
        }, done)
    }

    /** Runs [task] on the models, on the worker, and [done] with its result on the UI thread. */
    fun <T> submit(task: () -> T, done: (T) -> Unit) = worker.execute {
        try {
            val result = task()
            main.post { done(result) }
        } catch (error: DemoException) {
            fail(error.message!!)
        } catch (error: IOException) {
            fail("A file cannot be read or written (${error.message}).")
        } catch (error: LinkageError) {
            fail("This app holds no LiteRT that runs on this processor (${error.message}).")
        }
    }

    /** Times a loaded model on [image]; for tasks of [submit]. */
    fun benchmark(variant: Variant, image: Image): Benchmark =
        Benchmark.measure(variant.folder, model(variant), image)

    override fun close() {
        listener = null
        worker.execute { closeModels() }
        worker.shutdown()
    }

    private fun classified(image: Image) =
        Variant.values().associateWith { model(it).classify(image) }

    private fun model(variant: Variant): Classifier =
        models[variant] ?: throw ModelException("The models are not loaded; try again.")

    private fun fail(message: String) = main.post { listener?.invoke(message) }

    private fun reload(threads: Int): Map<Variant, ModelInfo> {
        closeModels()
        for (variant in Variant.values()) models[variant] = open(variant.folder, threads)
        return models.mapValues { ModelInfo(it.value.metadata.recipe, it.value.delegate) }
    }

    private fun closeModels() {
        models.values.forEach { it.close() }
        models.clear()
    }

    private fun open(folder: String, threads: Int): Classifier = try {
        val text = assets.open("$folder/model.json").use { it.readBytes() }.toString(Charsets.UTF_8)
        val metadata = Metadata.parse(text)
        Classifier(metadata, LiteRt.open(assets, "$folder/model.tflite", metadata, threads))
    } catch (error: IOException) {
        throw ModelException(
            "The app has no model in assets/$folder (${error.message}); run " +
                "scripts/android_assets or edgeq export --android and build it again.", error
        )
    }
}
