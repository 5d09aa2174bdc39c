package org.edgeq.demo.core

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Test

class PostprocessTest {
    @Test
    fun logitsBecomeTheProbabilitiesOfPython() {
        val logits = Vectors.floats("softmax.logits")
        val expected = Vectors.doubles("softmax.probabilities")
        for (row in 0 until logits.size / 10) {
            val from = row * 10
            val found = softmax(logits.copyOfRange(from, from + 10))
            // The exponential functions of the two may differ in the last bit.
            assertArrayEquals(expected.copyOfRange(from, from + 10), found, 1e-15)
        }
    }

    @Test
    fun largeLogitsDoNotOverflow() {
        assertArrayEquals(doubleArrayOf(0.5, 0.5, 0.0), softmax(floatArrayOf(3e4f, 3e4f, -3e4f)), 0.0)
    }

    @Test
    fun theLikeliestComeFirstAndOfEqualOnesTheEarlier() {
        val top = topK(doubleArrayOf(0.1, 0.4, 0.1, 0.4), listOf("a", "b", "c", "d"), 3)
        assertEquals(listOf(Score("b", 0.4), Score("d", 0.4), Score("a", 0.1)), top)
    }

    @Test
    fun theMedianIsTheMiddleAndTheMinimumTheFastest() {
        val odd = Benchmark("int8", "XNNPACK", listOf(3.0, 1.0, 2.0))
        assertEquals(Pair(1.0, 2.0), Pair(odd.minMs, odd.medianMs))
        assertEquals(2.5, Benchmark("int8", "XNNPACK", listOf(4.0, 1.0, 2.0, 3.0)).medianMs, 0.0)
        assertEquals(3, odd.toJson().getJSONArray("runs_ms").length())
    }
}
