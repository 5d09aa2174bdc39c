package org.edgeq.demo.core

import org.json.JSONArray
import org.json.JSONObject

/** Latencies of one model in milliseconds: the runtime alone, in the order of the runs. */
class Benchmark(val name: String, val delegate: String, val runsMs: List<Double>) {
    /** The fastest run: what other work on the phone disturbed least. */
    val minMs: Double = runsMs.minOrNull() ?: throw InputException("A benchmark needs a run.")

    /** The middle run, or the mean of the middle two. */
    val medianMs: Double = runsMs.sorted().let { (it[(it.size - 1) / 2] + it[it.size / 2]) / 2 }

    /** For files and programs. */
    fun toJson(): JSONObject = JSONObject()
        .put("model", name)
        .put("delegate", delegate)
        .put("runs", runsMs.size)
        .put("min_ms", minMs)
        .put("median_ms", medianMs)
        .put("runs_ms", JSONArray(runsMs))

    companion object {
        const val RUNS = 50
        private const val WARM_UP = 5

        /** Times a [classifier] on an [image], after a few runs that do not count. */
        fun measure(name: String, classifier: Classifier, image: Image, runs: Int = RUNS): Benchmark {
            repeat(WARM_UP) { classifier.classify(image) }
            val times = List(runs) { classifier.classify(image).inferenceMs }
            return Benchmark(name, classifier.delegate, times)
        }

        /** The text of a file with several of them and the [device] they ran on. */
        fun report(device: String, runtime: String, benchmarks: List<Benchmark>): String =
            JSONObject()
                .put("device", device)
                .put("runtime", runtime)
                .put("models", JSONArray(benchmarks.map { it.toJson() }))
                .toString(2)
    }
}
