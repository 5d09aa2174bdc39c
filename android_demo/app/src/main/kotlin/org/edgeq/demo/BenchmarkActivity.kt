package org.edgeq.demo

import android.app.Activity
import android.content.Intent
import android.os.Build
import android.os.Bundle
import android.util.Log
import android.view.View
import android.widget.Button
import android.widget.TextView
import java.io.File
import org.edgeq.demo.core.Benchmark
import org.edgeq.demo.core.Image

/** The finished benchmarks, and the file that holds them as JSON. */
private class Results(val benchmarks: List<Benchmark>, val json: String, val file: File)

/** What stays when the device is turned; touched by the UI thread alone. */
private class Bench(val engine: Engine) {
    var results: Results? = null
    var error: String? = null
    var onChange: (() -> Unit)? = null

    val running: Boolean get() = results == null && error == null

    fun end(results: Results?, error: String?) {
        this.results = results
        this.error = error
        onChange?.invoke()
    }
}

/**
 * Times both models on a grey picture, shows the latencies, and leaves them as `benchmark.json`.
 *
 * Starts by itself, so that a script can run it by `adb shell am start`. The integer extra `threads`
 * says how many threads, by default one.
 */
class BenchmarkActivity : Activity() {
    private lateinit var bench: Bench

    @Suppress("DEPRECATION") // of lastNonConfigurationInstance, in old SDKs
    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.activity_benchmark)
        val kept = lastNonConfigurationInstance as? Bench
        bench = kept ?: Bench(Engine(applicationContext.assets))
        (findViewById(R.id.again) as View).setOnClickListener { run() }
        (findViewById(R.id.share) as View).setOnClickListener { share() }
        if (kept == null) run()
    }

    override fun onStart() {
        super.onStart()
        bench.onChange = { showState() }
        showState()
    }

    override fun onStop() {
        super.onStop()
        bench.onChange = null
    }

    @Suppress("OVERRIDE_DEPRECATION") // only old SDKs say so
    override fun onRetainNonConfigurationInstance(): Any = bench

    override fun onDestroy() {
        super.onDestroy()
        if (!isChangingConfigurations) bench.engine.close()
    }

    private fun run() {
        val bench = bench
        val folder = getExternalFilesDir(null) ?: filesDir
        bench.end(null, null)
        bench.engine.listener = { bench.end(null, it) }
        bench.engine.load(intent.getIntExtra("threads", 1)) {
            bench.engine.submit({ measured(bench.engine, folder) }) { bench.end(it, null) }
        }
    }

    private fun measured(engine: Engine, folder: File): Results {
        val picture = Image(SIDE, SIDE, 3, ByteArray(SIDE * SIDE * 3) { 127 })
        val benchmarks = Variant.values().map { engine.benchmark(it, picture) }
        val device = "${Build.MANUFACTURER} ${Build.MODEL}, Android ${Build.VERSION.RELEASE}"
        val json = Benchmark.report(device, LiteRt.name, benchmarks)
        val file = File(folder, "benchmark.json")
        file.writeText(json)
        Log.i("edgeq", json)
        return Results(benchmarks, json, file)
    }

    private fun showState() {
        val results = bench.results
        (findViewById(R.id.results) as TextView).text = when {
            results != null -> describe(results)
            else -> bench.error ?: getString(R.string.benchmark_running, Benchmark.RUNS)
        }
        (findViewById(R.id.progress) as View).visibility =
            if (bench.running) View.VISIBLE else View.GONE
        (findViewById(R.id.again) as Button).isEnabled = !bench.running
        (findViewById(R.id.share) as Button).isEnabled = results != null
    }

    private fun describe(results: Results): String {
        val lines = results.benchmarks.map {
            getString(
                R.string.benchmark_result, it.name, it.minMs, it.medianMs, it.runsMs.size, it.delegate
            )
        }
        val saved = getString(R.string.benchmark_saved, results.file.path)
        return (lines + saved).joinToString("\n\n")
    }

    private fun share() {
        val json = bench.results?.json ?: return
        val send = Intent(Intent.ACTION_SEND).setType("application/json")
        startActivity(Intent.createChooser(send.putExtra(Intent.EXTRA_TEXT, json), title))
    }

    private companion object {
        /** Larger than the models' inputs, so that resizing is part of it as with a real picture. */
        const val SIDE = 640
    }
}
