package org.edgeq.demo

import android.Manifest
import android.app.Activity
import android.content.Intent
import android.content.pm.PackageManager
import android.os.Bundle
import android.view.TextureView
import android.view.View
import android.widget.AdapterView
import android.widget.ArrayAdapter
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.Spinner
import android.widget.Switch
import android.widget.TextView
import java.io.File
import java.io.IOException
import org.edgeq.demo.core.Classification
import org.edgeq.demo.core.Image
import org.edgeq.demo.core.InputException
import org.edgeq.demo.core.Score
import org.edgeq.demo.core.largestDifference

/** What stays when the device is turned. */
private class Session(val engine: Engine) {
    var threads = 0
    var usesCamera = false
    var still: Image? = null
    var nextSample = 0
}

/** Classifies what the camera sees, a picture of the gallery or a sample, with both models. */
class MainActivity : Activity(), FrameSink {
    private lateinit var session: Session
    private var camera: Camera? = null

    /** Read by the camera's thread. */
    @Volatile private var inverts = false

    @Suppress("DEPRECATION") // of lastNonConfigurationInstance, in old SDKs
    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.activity_main)
        session = lastNonConfigurationInstance as? Session ?: Session(Engine(applicationContext.assets))
        onClick(R.id.camera) { askForCamera() }
        onClick(R.id.gallery) { choosePicture() }
        onClick(R.id.sample) { showNextSample() }
        onClick(R.id.retry) { reload() }
        onClick(R.id.benchmark) { startActivity(Intent(this, BenchmarkActivity::class.java)) }
        switch(R.id.quantized).setOnCheckedChangeListener { _, _ -> classifyStill() }
        switch(R.id.light_background).setOnCheckedChangeListener { _, checked ->
            inverts = checked
            classifyStill()
        }
        offerThreads()
    }

    override fun onStart() {
        super.onStart()
        session.engine.listener = { showError(it) }
        inverts = switch(R.id.light_background).isChecked
        val loaded = session.engine.info.isNotEmpty()
        if (!loaded && session.threads != 0) reload()
        when {
            session.usesCamera -> startCamera()
            session.still != null -> showStill()
            loaded -> text(R.id.latency).setText(R.string.choose)
        }
    }

    override fun onStop() {
        super.onStop()
        session.engine.listener = null
        stopCamera()
    }

    @Suppress("OVERRIDE_DEPRECATION") // only old SDKs say so
    override fun onRetainNonConfigurationInstance(): Any = session

    override fun onDestroy() {
        super.onDestroy()
        if (!isChangingConfigurations) session.engine.close()
    }

    // Models

    private fun offerThreads() {
        val counts = (1..minOf(Runtime.getRuntime().availableProcessors(), 8)).toList()
        val spinner = findViewById(R.id.threads) as Spinner
        spinner.adapter = ArrayAdapter(this, android.R.layout.simple_spinner_dropdown_item, counts)
        spinner.onItemSelectedListener = object : AdapterView.OnItemSelectedListener {
            override fun onItemSelected(parent: AdapterView<*>, view: View?, place: Int, id: Long) {
                if (counts[place] != session.threads) {
                    session.threads = counts[place]
                    reload()
                }
            }

            override fun onNothingSelected(parent: AdapterView<*>) = Unit
        }
    }

    private fun reload() {
        hideError()
        session.engine.load(session.threads) {
            if (session.still == null) text(R.id.latency).setText(R.string.choose)
            classifyStill()
        }
    }

    // Still pictures

    private fun choosePicture() {
        val intent = Intent(Intent.ACTION_GET_CONTENT).setType("image/*")
        startActivityForResult(intent.addCategory(Intent.CATEGORY_OPENABLE), PICK_PICTURE)
    }

    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        val uri = data?.data
        if (request != PICK_PICTURE || result != RESULT_OK || uri == null) return
        val scratch = File(cacheDir, "picked")
        open { readPicture(contentResolver, uri, scratch) }
    }

    private fun showNextSample() {
        val names = sampleNames(assets)
        if (names.isEmpty()) return showError(getString(R.string.no_samples))
        val name = names[session.nextSample++ % names.size]
        switch(R.id.light_background).isChecked = false
        open { readSample(assets, name) }
    }

    private fun open(read: () -> Image) {
        stopCamera()
        session.usesCamera = false
        session.engine.submit({
            try {
                read()
            } catch (error: IOException) {
                throw InputException(getString(R.string.no_picture, error.message))
            } catch (error: SecurityException) {
                throw InputException(getString(R.string.no_picture, error.message))
            }
        }) {
            session.still = it
            showStill()
        }
    }

    private fun showStill() {
        val still = session.still ?: return
        show(R.id.preview, false)
        show(R.id.picture, true)
        (findViewById(R.id.picture) as ImageView).setImageBitmap(still.toBitmap())
        classifyStill()
    }

    private fun classifyStill() {
        val still = session.still ?: return
        if (session.usesCamera || session.threads == 0) return
        session.engine.classify(wanted(still)) { showResult(it) }
    }

    private fun wanted(image: Image) = if (inverts) image.inverted() else image

    // Camera

    private fun askForCamera() {
        if (checkSelfPermission(Manifest.permission.CAMERA) == PackageManager.PERMISSION_GRANTED) {
            startCamera()
        } else {
            requestPermissions(arrayOf(Manifest.permission.CAMERA), ASK_CAMERA)
        }
    }

    override fun onRequestPermissionsResult(
        request: Int, permissions: Array<String>, results: IntArray
    ) {
        val granted = results.firstOrNull() == PackageManager.PERMISSION_GRANTED
        if (granted) startCamera() else showError(getString(R.string.no_permission))
    }

    private fun startCamera() {
        hideError()
        stopCamera()
        session.usesCamera = true
        show(R.id.picture, false)
        show(R.id.preview, true)
        camera = Camera(this, findViewById(R.id.preview) as TextureView, this)
            .apply { start() }
    }

    private fun stopCamera() {
        camera?.stop()
        camera = null
    }

    override val wantsFrame: Boolean get() = session.engine.wantsFrame

    override fun onFrame(image: Image) =
        session.engine.classifyFrame(wanted(image)) { if (camera != null) showResult(it) }

    override fun onCameraError(reason: String) =
        runOnUiThread { showError(getString(R.string.no_camera, reason)) }

    // Results

    private fun showResult(found: Map<Variant, Classification>) {
        hideError()
        val quantized = switch(R.id.quantized).isChecked
        val shown = if (quantized) Variant.QUANTIZED else Variant.FLOAT
        val other = if (quantized) Variant.FLOAT else Variant.QUANTIZED
        val info = session.engine.info[shown] ?: return
        val chosen = found.getValue(shown)
        val compared = found.getValue(other)
        showScores(chosen.top)
        text(R.id.latency).text = getString(
            R.string.latency, nameOf(shown), info.recipe, chosen.inferenceMs, chosen.totalMs
        )
        val top = compared.top[0]
        text(R.id.comparison).text = getString(
            R.string.comparison, nameOf(other), top.label, top.probability * 100,
            compared.inferenceMs, largestDifference(chosen, compared) * 100,
        )
        text(R.id.delegate).text = getString(R.string.delegate, info.delegate)
    }

    private fun showScores(scores: List<Score>) {
        val rows = findViewById(R.id.scores) as LinearLayout
        while (rows.childCount < scores.size) layoutInflater.inflate(R.layout.score, rows)
        for ((i, score) in scores.withIndex()) {
            val row = rows.getChildAt(i)
            val percent = score.probability * 100
            (row.findViewById(R.id.label) as TextView).text = score.label
            (row.findViewById(R.id.probability) as TextView).text =
                getString(R.string.percent, percent)
            (row.findViewById(R.id.bar) as ProgressBar).progress = (percent * 10).toInt()
            row.contentDescription = getString(R.string.score_description, score.label, percent)
        }
    }

    private fun nameOf(variant: Variant): String = getString(
        when (variant) {
            Variant.QUANTIZED -> R.string.model_quantized
            Variant.FLOAT -> R.string.model_float
        }
    )

    private fun showError(message: String) {
        text(R.id.error_message).text = message
        show(R.id.error, true)
        show(R.id.result, false)
    }

    private fun hideError() {
        show(R.id.error, false)
        show(R.id.result, true)
    }

    // Views

    private fun onClick(id: Int, action: () -> Unit) =
        (findViewById(id) as View).setOnClickListener { action() }

    private fun show(id: Int, shown: Boolean) {
        (findViewById(id) as View).visibility = if (shown) View.VISIBLE else View.GONE
    }

    private fun switch(id: Int) = findViewById(id) as Switch

    private fun text(id: Int) = findViewById(id) as TextView

    private companion object {
        const val PICK_PICTURE = 1
        const val ASK_CAMERA = 2
    }
}
