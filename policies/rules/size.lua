--- How large requests may be.
--
--   sallyport rule add small --type size bytes=1048576
--   sallyport rule add reads --type size --host api.acme.test bytes=0
--
-- What the head says is judged: Content-Length. A body that tells no length (chunked) may become as long as it likes, and is
-- refused unless unknown=allow. A request without a body has no bytes.
return {
  kind = "rule", api = 1, name = "size", title = "How large requests may be",
  fields = {
    { name = "bytes", type = "integer", min = 0, required = true, help = "At most so many in a body" },
    { name = "unknown", type = "enum", values = { "deny", "allow" }, default = "deny", help = "Bodies that tell no length" },
  },
  on_request = function(req, ctx)
    if not req.has_body then return nil end
    if not req.length then
      return ctx.rule.unknown == "deny" and deny("a body tells its length here (Content-Length)") or nil
    end
    if req.length > ctx.rule.bytes then
      return deny(("the body has %d bytes, and at most %d are allowed"):format(req.length, ctx.rule.bytes))
    end
  end,
  examples = {
    { rule = { bytes = 0 } },
    { rule = { bytes = 3 }, req = { method = "POST", body = "abc" } },
    { rule = { bytes = 2 }, req = { method = "POST", body = "abc" }, want = "the body has 3 bytes, and at most 2 are allowed" },
  },
}
