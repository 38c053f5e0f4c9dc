/* Web Push for a page: subscribes this browser, registers it with Landed for one recipient, and undoes both.
 *
 *     <script src="https://notify.example.com/push/landed-push.js"></script>
 *     const device = await LandedPush.subscribe({ publicKey, token });
 *
 * Call subscribe() at each visit of a signed-in person who has allowed notifications: what is known is only renewed, and
 * what the browser exchanged in the meantime is registered. docs/how-to/web-push-in-the-browser.md says the rest.
 */
"use strict";

const LandedPush = (() => {
  const HOME = new URL(document.currentScript.src).origin;

  /** Asks for permission, subscribes and registers. Call it from a click: browsers ask nobody out of the blue.
   *
   *  publicKey: the VAPID public key, base64url. token: of the recipient. worker: where the service worker is on this
   *  page's own origin. api: where Landed is; default: where this script came from. appVersion: of the site, if it has one.
   *  Resolves to the device as Landed has it, or to null when the person says no. */
  async function subscribe({ publicKey, token, worker = "/push/landed-sw.js", scope = "/", api = HOME, appVersion }) {
    if (!("serviceWorker" in navigator) || !("PushManager" in window)) {
      return null;
    }
    if ((await Notification.requestPermission()) !== "granted") {
      return null;
    }
    const registration = await active(await navigator.serviceWorker.register(worker, { scope }));
    const subscription = await subscribed(registration.pushManager, publicKey);
    const kept = (await recall()) || {};
    const deviceKey = kept.deviceKey || crypto.randomUUID();
    const body = { platform: "web", subscription, device_key: deviceKey, app_version: appVersion };
    const device = await call("POST", `${api}/api/v1/devices/register`, token, body);
    // For the worker, which registers anew when the browser exchanges the subscription.
    await keep({ api, publicKey, token, deviceKey, deviceId: device.id });
    return device;
  }

  /** No more pushes to this browser: at a sign-out, or when the person says so. token: of the recipient. */
  async function unsubscribe({ token, scope = "/" }) {
    const kept = await recall();
    const registration = await navigator.serviceWorker.getRegistration(scope);
    const subscription = registration && (await registration.pushManager.getSubscription());
    if (subscription) {
      await subscription.unsubscribe();
    }
    if (kept && kept.deviceId) {
      await call("DELETE", `${kept.api}/api/v1/devices/${kept.deviceId}`, token);
      await keep({ deviceKey: kept.deviceKey });
    }
  }

  /** The subscription of this browser. One that was made with another key is good for nothing: it is replaced. */
  async function subscribed(pushManager, publicKey) {
    const present = await pushManager.getSubscription();
    if (present && present.options.applicationServerKey && !same(present.options.applicationServerKey, publicKey)) {
      await present.unsubscribe();
    }
    return pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: publicKey });
  }

  function same(buffer, publicKey) {
    const text = btoa(String.fromCharCode(...new Uint8Array(buffer)));
    return text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "") === publicKey.replace(/=+$/, "");
  }

  /** A subscription needs a worker that runs. */
  function active(registration) {
    const worker = registration.active || registration.waiting || registration.installing;
    return new Promise((resolve, reject) => {
      const look = () => {
        if (worker.state === "activated") {
          resolve(registration);
        } else if (worker.state === "redundant") {
          reject(new Error("the service worker could not be installed"));
        }
      };
      worker.addEventListener("statechange", look);
      look();
    });
  }

  async function call(method, url, token, body) {
    const answer = await fetch(url, {
      method,
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
      body: body && JSON.stringify(body),
      credentials: "omit",
    });
    if (!answer.ok) {
      const problem = await answer.json().catch(() => ({}));
      throw new Error(problem.detail || `Landed answered ${answer.status}`);
    }
    return answer.status === 204 ? undefined : answer.json();
  }

  const recall = () => inDatabase("readonly", (store) => store.get("registration"));
  const keep = (registration) => inDatabase("readwrite", (store) => store.put(registration, "registration"));

  /** One request to the database that page and worker share. */
  function inDatabase(mode, ask) {
    return new Promise((resolve, reject) => {
      const opening = indexedDB.open("landed-push", 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore("kept");
      opening.onerror = () => reject(opening.error);
      opening.onsuccess = () => {
        const transaction = opening.result.transaction("kept", mode);
        const request = ask(transaction.objectStore("kept"));
        transaction.onabort = () => reject(transaction.error);
        transaction.oncomplete = () => {
          opening.result.close();
          resolve(request.result);
        };
      };
    });
  }

  return { subscribe, unsubscribe };
})();
