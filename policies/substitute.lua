--- Nothing but rows: where the sandbox wrote a placeholder, the secret goes out.
--
-- For: Telegram (the token is in the path), APIs with several keys, WebSocket logins, anything no other type fits.
--   sallyport credential add bot --type substitute --host api.telegram.org env=TELEGRAM_BOT_TOKEN \
--     value=@token.txt --substitute 'value:path=/bot{}/**'
--   sallyport credential test bot 'https://api.telegram.org/bot{value}/getMe'
--   sallyport credential add shop --type substitute --host api.shop.example values.id=@id.txt values.key=@key.txt \
--     --substitute values.id:header=X-Shop-Id:__SHOP_ID__ --substitute values.key:json=/auth/key:__SHOP_KEY__
-- Fields: value (secret), or values.NAME (secrets) where there are several.
-- Rows, which every type may have: --substitute FIELD:PLACE[,PLACE…][:PLACEHOLDER], several times. A PLACE has a name:
-- where the agent could choose it, it would choose one that comes back (an Origin that CORS repeats, a note that it reads
-- again). Anywhere else the placeholder is a text like any other.
--   header=NAME     that header, as it is written; none that servers repeat (Origin, Cookie, Referer, X-Request-Id, …)
--   basic           either half of Authorization: Basic
--   query=NAME      that parameter of the URL
--   path=/TEMPLATE  the part of the path that is {} in it: /bot{}/**. * is any segment, /** at the end any rest, or none
--   form=NAME       that parameter of a form, urlencoded or multipart (not as a file)
--   json=/POINTER   that string of a JSON body: RFC 6901, "~" is ~0 and "/" within a name ~1; /list/0/key
--   ws=/POINTER     the same in the client's WebSocket text messages, up to 32 KiB. Compression is not offered to the
--                   server then; binary messages and larger ones pass as they are.
-- Bodies are read whole, up to body-max (16 MiB); other types, and what has a Content-Encoding, stream through untouched. In a NAME
-- a "," is %2C, a ":" %3A. Without PLACEHOLDER it is what the agent's environment holds (env=NAME).
-- What the answer's head repeats of a secret of 8 bytes or more becomes again what the client had sent, for every type.
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
