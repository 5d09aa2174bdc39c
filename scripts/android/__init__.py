"""Builds and tests the app of `android_demo/` without the Android SDK."""
