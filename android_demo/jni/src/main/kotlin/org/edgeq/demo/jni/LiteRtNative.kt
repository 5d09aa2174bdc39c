package org.edgeq.demo.jni

import java.nio.ByteBuffer

/** The functions of `litert_jni.c`; handles are 0 where LiteRT refused. */
internal object LiteRtNative {
    init {
        System.loadLibrary("edgeq_jni")
    }

    @JvmStatic external fun version(): String
    @JvmStatic external fun createModel(model: ByteBuffer): Long
    @JvmStatic external fun createDelegate(threads: Int): Long
    @JvmStatic external fun createInterpreter(model: Long, delegate: Long, threads: Int): Long
    @JvmStatic external fun allocateTensors(interpreter: Long): Boolean
    @JvmStatic external fun invoke(interpreter: Long): Boolean
    @JvmStatic external fun inputCount(interpreter: Long): Int
    @JvmStatic external fun outputCount(interpreter: Long): Int
    @JvmStatic external fun input(interpreter: Long): Long
    @JvmStatic external fun output(interpreter: Long): Long
    @JvmStatic external fun type(tensor: Long): Int
    @JvmStatic external fun shape(tensor: Long): IntArray
    @JvmStatic external fun scale(tensor: Long): Float
    @JvmStatic external fun zeroPoint(tensor: Long): Int
    @JvmStatic external fun writeInt8(tensor: Long, values: ByteArray)
    @JvmStatic external fun readInt8(tensor: Long, values: ByteArray)
    @JvmStatic external fun writeFloat(tensor: Long, values: FloatArray)
    @JvmStatic external fun readFloat(tensor: Long, values: FloatArray)
    @JvmStatic external fun delete(interpreter: Long, delegate: Long, model: Long)
}
