"""Push: an APNs of its own port, FCM, a Web Push service, and the devices that get and acknowledge it all.

Shapes follow Apple's and Google's references and RFCs 8030, 8188, 8291 and 8292; docs/sandbox.md lists what is left
out.
"""
