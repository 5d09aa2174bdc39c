package org.edgeq.demo

import android.content.ContentResolver
import android.content.res.AssetManager
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.media.ExifInterface
import android.net.Uri
import java.io.File
import java.io.IOException
import org.edgeq.demo.core.Image

/** The longest side of a picture that is kept; models take far smaller ones. */
private const val LARGEST = 1600

/**
 * The picture that a [uri] of another app names, the right way up.
 *
 * @param scratch A file to copy it to, so that it can be read several times.
 * @throws IOException It is no picture or cannot be read.
 */
fun readPicture(resolver: ContentResolver, uri: Uri, scratch: File): Image {
    val stream = resolver.openInputStream(uri) ?: throw IOException("$uri is not there")
    stream.use { source -> scratch.outputStream().use { source.copyTo(it) } }
    try {
        val bounds = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        BitmapFactory.decodeFile(scratch.path, bounds)
        val options = BitmapFactory.Options()
        options.inSampleSize = maxOf(1, maxOf(bounds.outWidth, bounds.outHeight) / LARGEST)
        val bitmap = BitmapFactory.decodeFile(scratch.path, options)
            ?: throw IOException("it is no picture")
        return bitmap.toImage().rotated(turnOf(scratch))
    } finally {
        scratch.delete()
    }
}

/** How far a photo has to be turned clockwise, as the camera noted in it. */
private fun turnOf(file: File): Int =
    when (ExifInterface(file.path).getAttributeInt(ExifInterface.TAG_ORIENTATION, 0)) {
        ExifInterface.ORIENTATION_ROTATE_90 -> 90
        ExifInterface.ORIENTATION_ROTATE_180 -> 180
        ExifInterface.ORIENTATION_ROTATE_270 -> 270
        else -> 0
    }

/** The names of the sample pictures in the assets. */
fun sampleNames(assets: AssetManager): List<String> =
    assets.list("samples").orEmpty().sorted().map { "samples/$it" }

/** A sample picture. */
fun readSample(assets: AssetManager, name: String): Image {
    val bitmap = assets.open(name).use { BitmapFactory.decodeStream(it) }
        ?: throw IOException("$name is no picture")
    return bitmap.toImage()
}

private fun Bitmap.toImage(): Image {
    val pixels = IntArray(width * height)
    getPixels(pixels, 0, width, 0, 0, width, height)
    return Image.ofArgb(width, height, pixels)
}

/** For showing. */
fun Image.toBitmap(): Bitmap {
    val colours = withChannels(3)
    val pixels = IntArray(width * height) {
        val x = it % width
        val y = it / width
        (0xFF shl 24) or (colours.at(x, y, 0) shl 16) or (colours.at(x, y, 1) shl 8) or
            colours.at(x, y, 2)
    }
    return Bitmap.createBitmap(pixels, width, height, Bitmap.Config.ARGB_8888)
}
