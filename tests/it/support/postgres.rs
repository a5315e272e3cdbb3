//! A database for one test, on the server of `DATABASE_URL`, dropped with the value that stands for
//! it whether or not the test passed or its clients have gone.
//!
//! One with the bridge's schema is a copy of a database that is migrated once for all tests. The copied one is
//! made by whichever test comes first, of however many processes, and stays on the server for the next run.

use mahspeccy_bridge::domain::secret::Secret;
use mahspeccy_bridge::pg::connect::PgConfig;
use mahspeccy_bridge::pg::schema::{MIGRATIONS, migrate};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::sync::OnceCell;
use url::Url;
use uuid::Uuid;

use super::{finish, report_leftover, services};

/// Connections of a test's own pool. The server has 400 for all tests at once.
const POOL_SIZE: u32 = 5;

/// An empty database that is one test's own.
pub(crate) struct TestDatabase {
    pool: PgPool,
    database: Database,
}

impl TestDatabase {
    /// Makes an empty database with a random name.
    pub(crate) async fn create() -> Self {
        Self::create_on(services::database_url()).await
    }

    /// Makes an empty database on another server.
    pub(crate) async fn create_on(server: Url) -> Self {
        // template0, since nobody can be connected to it and so be in the way.
        Self::copy(server, "template0").await
    }

    /// Makes a database with the schema.
    pub(crate) async fn migrated() -> Self {
        static TEMPLATE: OnceCell<String> = OnceCell::const_new();
        let server = services::database_url();
        let template = TEMPLATE.get_or_init(|| template(&server)).await;
        Self::copy(server, template).await
    }

    async fn copy(server: Url, template: &str) -> Self {
        let name = format!("it_{}", Uuid::new_v4().simple());
        let mut url = server.clone();
        url.set_path(&name);

        execute(
            &server,
            format!("create database {name} template {template}"),
        )
        .await
        .unwrap_or_else(|err| panic!("can't create a database: {err}"));
        let database = Database { server, name, url };

        let pool = PgPoolOptions::new()
            .max_connections(POOL_SIZE)
            .connect(database.url.as_str())
            .await
            .unwrap_or_else(|err| panic!("can't connect to the new database: {err}"));
        Self { pool, database }
    }

    /// The URL to hand to what is tested.
    pub(crate) fn url(&self) -> &str {
        self.database.url.as_str()
    }

    /// The URL to hand to a worker: whoever connects with it is the role that the migrations made for
    /// workers, and has that role's rights.
    pub(crate) fn worker_url(&self) -> String {
        let mut url = self.database.url.clone();
        url.query_pairs_mut()
            .append_pair("options", "-c role=bridge_worker");
        url.into()
    }

    /// Its name on the server.
    pub(crate) fn name(&self) -> &str {
        &self.database.name
    }

    /// The test's own connections.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// The database on the server; exists as long as this value.
struct Database {
    server: Url,
    name: String,
    url: Url,
}

impl Drop for Database {
    fn drop(&mut self) {
        let server = self.server.clone();
        // `force` ends the connections that are still open: the pool's, a worker's.
        let sql = format!("drop database if exists {} with (force)", self.name);
        let dropped =
            finish(async move { execute(&server, sql).await.map_err(|err| err.to_string()) });
        report_leftover(&format!("database {}", self.name), dropped);
    }
}

/// The name of a database with the schema of these migrations, which is made if it is not there.
async fn template(server: &Url) -> String {
    let digest = MIGRATIONS.iter().fold(Sha256::new(), |digest, migration| {
        digest.chain_update(&*migration.checksum)
    });
    let name = format!("it_template_{}", &hex::encode(digest.finalize())[..16]);
    let mut connection = PgConnection::connect(server.as_str())
        .await
        .unwrap_or_else(|err| panic!("can't connect to the server: {err}"));
    // One process makes it, and the others wait; the lock ends with the connection.
    sqlx::query("select pg_advisory_lock(hashtext($1))")
        .bind(&name)
        .execute(&mut connection)
        .await
        .expect("the lock");
    let exists: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(&name)
            .fetch_one(&mut connection)
            .await
            .expect("the databases");
    if !exists {
        // Under another name until it is done: whoever is stopped half-way leaves nothing to be taken for it.
        let draft = format!("it_draft_{}", Uuid::new_v4().simple());
        execute(
            server,
            format!("create database {draft} template template0"),
        )
        .await
        .expect("a draft");
        let mut url = server.clone();
        url.set_path(&draft);
        migrate(&PgConfig::new(Secret::new(url.as_str()), "it"))
            .await
            .expect("the schema");
        execute(server, format!("alter database {draft} rename to {name}"))
            .await
            .expect("nobody is connected to the draft");
    }
    connection.close().await.expect("an idle connection closes");
    name
}

async fn execute(server: &Url, sql: String) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(server.as_str()).await?;
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await?;
    connection.close().await
}
