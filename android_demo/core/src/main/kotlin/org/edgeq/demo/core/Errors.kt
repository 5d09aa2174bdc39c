package org.edgeq.demo.core

/** Root of every error that the app raises on purpose; its message is one sentence for the user. */
sealed class DemoException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** The model or its metadata is missing, damaged, or not what the other says. */
class ModelException(message: String, cause: Throwable? = null) : DemoException(message, cause)

/** An image or tensor of the wrong size or type. */
class InputException(message: String) : DemoException(message)
