import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

android {
    namespace = "org.edgeq.demo"
    compileSdk = libs.versions.compileSdk.get().toInt()

    defaultConfig {
        applicationId = "org.edgeq.demo"
        minSdk = libs.versions.minSdk.get().toInt()
        targetSdk = libs.versions.targetSdk.get().toInt()
        versionCode = 1
        versionName = libs.versions.app.get()
        ndk {
            abiFilters += listOf("arm64-v8a", "x86_64")
        }
    }

    sourceSets {
        getByName("main") {
            // src/jni has the same object over LiteRT's C API, for scripts/build_apk.
            kotlin.srcDir("src/compiledmodel/kotlin")
        }
    }

    androidResources {
        // LiteRT maps the file where it is.
        noCompress += "tflite"
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
}

kotlin {
    compilerOptions {
        jvmTarget.set(JvmTarget.JVM_11)
    }
}

dependencies {
    implementation(project(":core"))
    implementation(libs.litert)
}

val checkModel by tasks.registering {
    val model = layout.projectDirectory.file("src/main/assets/quantized/model.tflite").asFile
    doLast {
        if (!model.exists()) {
            throw GradleException(
                "The app has no model: run scripts/android_assets, or edgeq export --android."
            )
        }
    }
}

tasks.named("preBuild") {
    dependsOn(checkModel)
}
