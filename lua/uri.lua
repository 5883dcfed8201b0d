--- RFC 3986 escapes and queries.
local core, form, secrets = require "uri.core", require "form", require "secret"
local M = { decode = core.decode, parse_query = core.parse_query, percent = secrets.percent }

--- uri.query(pairs) -> string | secret: as form.encode, with %20 for a space, as signers want it
function M.query(list) return form.encode(list, secrets.percent) end

return M
