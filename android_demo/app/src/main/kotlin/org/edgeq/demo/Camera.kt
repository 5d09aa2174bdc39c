package org.edgeq.demo

import android.annotation.SuppressLint
import android.app.Activity
import android.content.Context
import android.graphics.ImageFormat
import android.graphics.Matrix
import android.graphics.RectF
import android.graphics.SurfaceTexture
import android.hardware.camera2.CameraAccessException
import android.hardware.camera2.CameraCaptureSession
import android.hardware.camera2.CameraCharacteristics
import android.hardware.camera2.CameraDevice
import android.hardware.camera2.CameraManager
import android.media.ImageReader
import android.os.Handler
import android.os.HandlerThread
import android.util.Size
import android.view.Surface
import android.view.TextureView
import org.edgeq.demo.core.Image
import org.edgeq.demo.core.Plane

/** Who gets the frames of a [Camera]; called on the camera's own thread. */
interface FrameSink {
    /** Whether the next frame is worth converting. */
    val wantsFrame: Boolean

    /** A frame, the right way up. */
    fun onFrame(image: Image)

    /** Why there will be none, as a few words. */
    fun onCameraError(reason: String)
}

/** The back camera: shows its picture in [view] and hands its frames to [sink]. */
class Camera(
    private val activity: Activity,
    private val view: TextureView,
    private val sink: FrameSink,
) {
    private val thread = HandlerThread("camera").apply { start() }
    private val handler = Handler(thread.looper)

    @Volatile private var size: Size? = null

    // Touched by the camera's thread alone.
    private var device: CameraDevice? = null
    private var reader: ImageReader? = null
    private var stopped = false

    /** Opens the camera as soon as the view can show something. Needs the permission. */
    fun start() {
        if (view.isAvailable) open()
        view.surfaceTextureListener = object : TextureView.SurfaceTextureListener {
            override fun onSurfaceTextureAvailable(texture: SurfaceTexture, w: Int, h: Int) = open()
            override fun onSurfaceTextureSizeChanged(texture: SurfaceTexture, w: Int, h: Int) = fit()
            override fun onSurfaceTextureDestroyed(texture: SurfaceTexture) = true
            override fun onSurfaceTextureUpdated(texture: SurfaceTexture) = Unit
        }
    }

    /** Gives the camera back to other apps; this object cannot be started again. */
    fun stop() {
        view.surfaceTextureListener = null
        handler.post {
            stopped = true
            device?.close()
            reader?.close()
            thread.quitSafely()
        }
    }

    private fun open() {
        handler.post { guarded { if (!stopped && device == null) openBackCamera() } }
    }

    private inline fun guarded(action: () -> Unit) = try {
        action()
    } catch (error: CameraAccessException) {
        sink.onCameraError(error.message ?: "it is in use")
    } catch (error: IllegalStateException) {
        sink.onCameraError(error.message ?: "it was taken away")
    }

    @SuppressLint("MissingPermission") // the activity asks for it before it makes this object
    private fun openBackCamera() {
        val manager = activity.getSystemService(Context.CAMERA_SERVICE) as CameraManager
        val id = manager.cameraIdList.find {
            manager.getCameraCharacteristics(it)[CameraCharacteristics.LENS_FACING] ==
                CameraCharacteristics.LENS_FACING_BACK
        } ?: return sink.onCameraError("there is no back camera")
        val facts = manager.getCameraCharacteristics(id)
        val size = frameSize(facts)
        this.size = size
        view.post { fit() }
        val reader = ImageReader.newInstance(size.width, size.height, ImageFormat.YUV_420_888, 2)
        reader.setOnImageAvailableListener({ deliver(it, turnOf(facts)) }, handler)
        this.reader = reader
        manager.openCamera(id, object : CameraDevice.StateCallback() {
            override fun onOpened(camera: CameraDevice) = guarded {
                device = camera
                if (stopped) camera.close() else show(camera, size, reader)
            }

            override fun onDisconnected(camera: CameraDevice) = camera.close()

            override fun onError(camera: CameraDevice, error: Int) {
                camera.close()
                sink.onCameraError("error $error")
            }
        }, handler)
    }

    private fun show(camera: CameraDevice, size: Size, reader: ImageReader) {
        val texture = view.surfaceTexture ?: return
        texture.setDefaultBufferSize(size.width, size.height)
        val surfaces = listOf(Surface(texture), reader.surface)
        val request = camera.createCaptureRequest(CameraDevice.TEMPLATE_PREVIEW)
        surfaces.forEach { request.addTarget(it) }
        val callback = object : CameraCaptureSession.StateCallback() {
            override fun onConfigured(session: CameraCaptureSession) = guarded {
                if (!stopped) session.setRepeatingRequest(request.build(), null, handler)
            }

            override fun onConfigureFailed(session: CameraCaptureSession) =
                sink.onCameraError("its picture cannot be set up")
        }
        @Suppress("DEPRECATION") // its successor needs API 28
        camera.createCaptureSession(surfaces, callback, handler)
    }

    /** The size next to 640 x 480, which is more than small models need. */
    private fun frameSize(facts: CameraCharacteristics): Size =
        facts[CameraCharacteristics.SCALER_STREAM_CONFIGURATION_MAP]!!
            .getOutputSizes(ImageFormat.YUV_420_888)
            .minByOrNull { Math.abs(it.width * it.height - 640 * 480) }!!

    private fun deliver(reader: ImageReader, turn: Int) {
        val frame = reader.acquireLatestImage() ?: return
        val image = frame.use { if (sink.wantsFrame) converted(it) else null }
        if (image != null && !stopped) sink.onFrame(image.rotated(turn))
    }

    private fun converted(frame: android.media.Image) =
        Image.ofYuv(frame.width, frame.height, frame.planes.map {
            val bytes = ByteArray(it.buffer.remaining())
            it.buffer.get(bytes)
            Plane(bytes, it.rowStride, it.pixelStride)
        })

    /** How far frames have to be turned clockwise to stand upright on the screen. */
    private fun turnOf(facts: CameraCharacteristics): Int =
        (facts[CameraCharacteristics.SENSOR_ORIENTATION]!! - displayTurn() + 360) % 360

    private fun displayTurn(): Int =
        @Suppress("DEPRECATION") // its successor needs API 30
        when (activity.windowManager.defaultDisplay.rotation) {
            Surface.ROTATION_90 -> 90
            Surface.ROTATION_180 -> 180
            Surface.ROTATION_270 -> 270
            else -> 0
        }

    /** Shows the whole picture in its own proportions; the system would fill the view with it. */
    private fun fit() {
        val size = size ?: return
        val turn = displayTurn()
        val box = RectF(0f, 0f, view.width.toFloat(), view.height.toFloat())
        // On an upright phone the sensor's rows are columns.
        val picture = RectF(0f, 0f, size.height.toFloat(), size.width.toFloat())
        picture.offset(box.centerX() - picture.centerX(), box.centerY() - picture.centerY())
        val lies = turn % 180 != 0
        val scale = minOf(
            box.width() / if (lies) picture.height() else picture.width(),
            box.height() / if (lies) picture.width() else picture.height(),
        )
        val matrix = Matrix()
        matrix.setRectToRect(box, picture, Matrix.ScaleToFit.FILL)
        matrix.postScale(scale, scale, box.centerX(), box.centerY())
        matrix.postRotate(-turn.toFloat(), box.centerX(), box.centerY())
        view.setTransform(matrix)
    }
}
