--- Nothing but rows: where the sandbox wrote a placeholder, the secret goes out.
--
-- For: Telegram (the token is in the path), APIs with several keys, WebSocket logins, anything no other type fits.
--   sallyport credential add bot --type substitute --host api.telegram.org env=TELEGRAM_BOT_TOKEN \
--     value=@token.txt --substitute value:path
--   sallyport credential test bot 'https://api.telegram.org/bot{value}/getMe'
--   sallyport credential add shop --type substitute --host api.shop.example values.id=@id.txt values.key=@key.txt \
--     --substitute values.id:header,query:__SHOP_ID__ --substitute values.key:header,body:__SHOP_KEY__
-- Fields: value (secret), or values.NAME (secrets) where there are several.
-- Rows, which every type may have: --substitute FIELD:PLACE[,PLACE…][:PLACEHOLDER]. PLACE is
--   header     any header, and inside the base64 of Basic; an Authorization without the placeholder goes, as ever
--   query      URL query; percent-encoded       path   URL path; percent-encoded
--   body       JSON (in its strings), forms, XML, text, multipart, by Content-Type and escaped for it; read whole, up
--              to 1 MiB. Other types, and what has a Content-Encoding, stream through untouched.
--   websocket  the client's text messages up to 32 KiB, in JSON's strings where they are JSON. Compression is not
--              offered to the server then; binary messages and larger ones pass as they are.
-- Without PLACEHOLDER it is what the agent's environment holds (env=NAME). What the answer repeats of a secret from
-- path or query in Location, Content-Location, Link, Refresh or Set-Cookie becomes again what the client had sent.
return {
  kind   = "type",
  api    = 1,
  name   = "substitute",
  title  = "Placeholders replaced where they stand",
  rows   = true,
  fields = {
    { name = "value", secret = true, help = "The secret" },
    { name = "values", type = "map", secret = true, help = "values.NAME=…: where there are several" },
  },

  apply = function() end,   -- the runtime has replaced what the rows name

  examples = {
    { cred = { value = "s1" }, req = { headers = { authorization = "Bearer mine", ["x-key"] = "kept" } },
      want = { headers = { authorization = false, ["x-key"] = "kept" } } },
  },
}
