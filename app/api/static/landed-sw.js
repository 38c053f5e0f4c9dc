/* The service worker for Web Push: it shows what Landed sends and tells Landed what became of it.
 *
 * Served at /push/landed-sw.js. A worker must come from the origin of the page that registers it, so a site of another
 * origin serves a file of its own with one line:
 *
 *     importScripts("https://notify.example.com/push/landed-sw.js");
 *
 * It leaves alone every push and notification that is not Landed's, so that such a file may have handlers of its own.
 * How it goes together with a page: docs/how-to/web-push-in-the-browser.md.
 */
"use strict";

(() => {
  const KEYS = ["landed_notification_id", "landed_delivery_id", "landed_receipt_token", "landed_receipt_url"];
  const ACKNOWLEDGE_AFTER_MS = [0, 1000, 5000]; // a worker may be stopped half a minute after its event

  self.addEventListener("push", (event) => {
    const push = read(event.data);
    if (push) {
      event.waitUntil(show(push));
    }
  });

  self.addEventListener("notificationclick", (event) => {
    const data = event.notification.data;
    if (isOurs(data)) {
      event.notification.close();
      event.waitUntil(Promise.all([open(data.landed_url), acknowledge(data, "opened")]));
    }
  });

  self.addEventListener("notificationclose", (event) => {
    const data = event.notification.data;
    if (isOurs(data)) {
      event.waitUntil(acknowledge(data, "dismissed"));
    }
  });

  self.addEventListener("pushsubscriptionchange", (event) => event.waitUntil(renew(event.newSubscription)));

  /** The payload of one of our pushes; null for any other. */
  function read(data) {
    try {
      const push = data.json();
      return push && isOurs({ ...push.data, ...push }) ? push : null;
    } catch {
      return null; // no payload, or no JSON
    }
  }

  function isOurs(data) {
    return Boolean(data && data.landed_notification_id);
  }

  /** Shows it, then says that it came: what could not be shown has not reached anybody. */
  async function show(push) {
    const all = { ...push.data, ...push };
    const ours = Object.fromEntries(KEYS.filter((key) => key in all).map((key) => [key, all[key]]));
    await self.registration.showNotification(push.title || "", {
      body: [push.subtitle, push.body].filter(Boolean).join("\n"),
      icon: push.data && push.data.icon,
      image: push.image,
      badge: typeof push.badge === "string" ? push.badge : undefined,
      // The same for every copy of one notification: a second copy takes the place of the first, without a sound.
      tag: push.tag || ours.landed_notification_id,
      data: { ...push.data, landed_url: push.url, ...ours },
    });
    if (typeof push.badge === "number" && "setAppBadge" in self.navigator) {
      await self.navigator.setAppBadge(push.badge).catch(() => {}); // not installed as an app: there is no icon to mark
    }
    await acknowledge(ours, "received");
  }

  /** Goes to the page: to a window that shows it, else to a new one. Without an address, to the site. */
  async function open(url) {
    const target = allowed(url) || self.registration.scope;
    const windows = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
    const there = windows.find((window) => window.url === target) || (url ? undefined : windows[0]);
    return there ? there.focus() : self.clients.openWindow(target);
  }

  /** An https address, or one of this site. Anything else, "javascript:" above all, is not followed. */
  function allowed(url) {
    try {
      const target = new URL(url, self.registration.scope);
      return url && (target.protocol === "https:" || target.origin === self.location.origin) ? target.href : null;
    } catch {
      return null;
    }
  }

  /** Tells Landed. The token came with the push and is all the proof that is needed; no cookie travels. */
  async function acknowledge(data, event) {
    if (!data.landed_receipt_url || !data.landed_receipt_token) {
      return;
    }
    for (const pause of ACKNOWLEDGE_AFTER_MS) {
      await new Promise((resume) => setTimeout(resume, pause));
      try {
        const answer = await fetch(data.landed_receipt_url, {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body: JSON.stringify({ token: data.landed_receipt_token, event }),
          credentials: "omit",
          keepalive: true,
        });
        if (answer.status < 500 && answer.status !== 429) {
          return; // taken, or refused for good
        }
      } catch {
        // no network just now
      }
    }
  }

  /** The browser exchanged the subscription: registers the new one, with what landed-push.js has kept. Where the
   *  recipient's token has run out meanwhile, the page's next subscribe() does it. */
  async function renew(subscription) {
    const kept = await recall();
    if (!kept) {
      return;
    }
    const current =
      subscription ||
      (await self.registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: kept.publicKey }));
    await fetch(`${kept.api}/api/v1/devices/register`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${kept.token}` },
      body: JSON.stringify({ platform: "web", subscription: current, device_key: kept.deviceKey }),
      credentials: "omit",
    });
  }

  function recall() {
    return new Promise((resolve, reject) => {
      const opening = indexedDB.open("landed-push", 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore("kept");
      opening.onerror = () => reject(opening.error);
      opening.onsuccess = () => {
        const database = opening.result;
        const reading = database.transaction("kept").objectStore("kept").get("registration");
        reading.onerror = () => reject(reading.error);
        reading.onsuccess = () => {
          database.close();
          resolve(reading.result);
        };
      };
    });
  }
})();
