"""Who may use the admin API: tokens, sessions of the page, trusted parties, and the doorkeeper who knows them."""
