// The search of a site that is opened from a disk. Browsers start no worker from a file, so its script runs in a
// hidden frame instead. The theme asks for `IFrameWorker` by name; its own one would be fetched from elsewhere.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = [] // messages that came before the script was there
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      const inner = (this.inner = frame.contentWindow)
      inner.document.open()
      inner.document.write("<!doctype html><html><body></body></html>")
      inner.document.close()
      inner.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) }))
      inner.importScripts = (...urls) =>
        urls.reduce((before, each) => before.then(() => this.load(each)), Promise.resolve())
      this.load(url).then(() => {
        const waiting = this.waiting
        this.waiting = null
        waiting.forEach(data => this.deliver(data))
      })
    }

    load(url) {
      const script = this.inner.document.createElement("script")
      script.src = url
      return new Promise((loaded, failed) => {
        script.onload = loaded
        script.onerror = () => failed(new Error(`no script at ${url}`))
        this.inner.document.body.appendChild(script)
      })
    }

    postMessage(data) {
      this.waiting ? this.waiting.push(data) : this.deliver(data)
    }

    deliver(data) {
      this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data: structuredClone(data) }))
    }

    terminate() {
      this.inner.frameElement.remove()
    }
  }
}
